"""A run's frozen text encoder on the coordinator: its files are blobs of the run, served to workers and read again to evaluate.

The folder or hub id that the operator named is looked at once, when the run is made; whatever becomes of it, the run has its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from coordinator.blobs import BlobStore, file_sha256
from diffusion_at_home.config.run import ModelSection, TextEncoderSection
from diffusion_at_home.errors import DataError
from diffusion_at_home.frozen_text import FrozenText, frozen_kind, linked_folder
from diffusion_at_home.runspec import RunSpec

OWN_NAME: Final = "text_encoder"
"""What a run calls the encoder that came from one of the operator's folders."""


def take_in(model: ModelSection, blobs: BlobStore) -> tuple[TextEncoderSection, FrozenText | None]:
    """Make the encoder that `model` names, if it names one, blobs of a new run.

    Returns model.text with the encoder's sizes and without the operator's folder, and what the specification says of it.
    Raises `ConfigError`, `StorageError`.
    """
    if not model.text.frozen:
        return model.text, None
    from diffusion_at_home.model.frozen import keep_encoder  # noqa: PLC0415 -- takes seconds

    with TemporaryDirectory(dir=blobs.staging) as scratch:
        out = Path(scratch)
        section, text = keep_encoder(model.text, frozen_kind(model.kind), out)
        for file in text.files:
            blobs.add_copy(out / file.name, file.sha256)
    if Path(section.encoder).is_dir():
        section = section.model_copy(update={"encoder": OWN_NAME})
    return section, text


@contextmanager
def own_text_encoder(spec: RunSpec, blobs: Path) -> Iterator[TextEncoderSection]:
    """Within, the run's model.text with the encoder in a folder of the run's own files, if it is frozen.

    Raises `DataError` that names the first file that is not there or damaged.
    """
    section = spec.config.model.text
    if spec.text_encoder is None:
        yield section
        return
    for file in spec.text_encoder.files:
        path = blobs / file.sha256
        if not path.is_file() or file_sha256(path) != file.sha256:
            raise DataError(f"the text encoder's {file.name} is damaged or missing: restore {path} from a backup")
    with linked_folder(spec.text_encoder.files, lambda file: blobs / file.sha256) as folder:
        yield section.model_copy(update={"encoder": str(folder)})
