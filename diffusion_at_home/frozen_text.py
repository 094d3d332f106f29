"""A run's frozen text encoder as its specification names it: what it is, and the files that it travels as.

It is no part of the model: nothing of it is trained or exchanged. The files are blobs of the run, each with its size and sha256,
and are linked into a folder of their own names whenever the encoder is loaded. Only JSON and safetensors can be named, and no
config that asks for code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from diffusion_at_home.config.run import ModelKind
from diffusion_at_home.config.toml import Section

CONFIG_NAME: Final = "config.json"
MAX_FILE_BYTES: Final = 16 * 2**30
MAX_ENCODER_BYTES: Final = 32 * 2**30
"""Of all its files: more than any encoder that the pipelines take has in fp32."""
_FOREIGN: Final = ("auto_map", "attn_implementation", "experts_implementation", "kernel", "quantization")
"""What in a config.json may make transformers load code from elsewhere, or weights that are not the file's."""
_FILE_NAMES: Final = (
    r"^(config|tokenizer|tokenizer_config)\.json$|^model[A-Za-z0-9_-]{0,64}\.safetensors(\.index\.json)?$"
)


class FrozenKind(StrEnum):
    """A class of transformers, whose `last_hidden_state` a family's pipeline hands to its denoiser.

    PRX also takes a T5GemmaEncoder, but what diffusers 0.42.1 saves of one it does not load again: it could not be exported.
    """

    T5 = "T5EncoderModel"
    CLIP = "CLIPTextModel"


def frozen_kind(kind: ModelKind) -> FrozenKind:
    """What the stock pipeline of a family takes."""
    return FrozenKind.T5 if kind is ModelKind.PRX else FrozenKind.CLIP


class EncoderFile(Section):
    """One file, a blob of the run."""

    name: Annotated[str, Field(pattern=_FILE_NAMES)]
    """As transformers saves it."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the whole file (hex)."""
    size_bytes: Annotated[int, Field(gt=0, le=MAX_FILE_BYTES)]
    """Of the whole file."""


class FrozenText(Section):
    """A text encoder and its tokenizer."""

    kind: FrozenKind
    """The encoder's class."""
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """sha256 (hex) of its weights, see `model.autoencoder.weights_digest`."""
    config_json: Annotated[str, Field(max_length=2**16)]
    """The file `CONFIG_NAME`, from which memory is planned before anything is fetched."""
    files: Annotated[tuple[EncoderFile, ...], Field(min_length=3, max_length=100)]
    """All that loading it takes."""

    @model_validator(mode="after")
    def _files_are_whole(self) -> Self:
        by_name = {file.name: file for file in self.files}
        if len(by_name) != len(self.files):
            raise ValueError("two files of the text encoder have one name")
        if sum(file.size_bytes for file in self.files) > MAX_ENCODER_BYTES:
            raise ValueError(f"the text encoder has more than {MAX_ENCODER_BYTES} bytes")
        config = by_name.get(CONFIG_NAME)
        if config is None or config.sha256 != hashlib.sha256(self.config_json.encode()).hexdigest():
            raise ValueError(f"config_json is not the {CONFIG_NAME} of the text encoder")
        foreign = _foreign(self.config_json)
        if foreign is not None:
            raise ValueError(f"the {CONFIG_NAME} of the text encoder has {foreign}")
        return self

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)


def _foreign(config_json: str) -> str | None:
    """The first of `_FOREIGN` in it, wherever, and however it is escaped. Raises `ValueError` if it is no JSON."""
    try:
        plain = json.dumps(json.loads(config_json))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return next((word for word in _FOREIGN if word in plain), None)


@contextmanager
def linked_folder(files: Sequence[EncoderFile], path_of: Callable[[EncoderFile], Path]) -> Iterator[Path]:
    """Within, a folder in which `files`, which the caller has verified, have their names."""
    with TemporaryDirectory(prefix="diffusion-at-home-") as name:
        folder = Path(name)
        for file in files:
            (folder / file.name).symlink_to(path_of(file).absolute())
        yield folder
