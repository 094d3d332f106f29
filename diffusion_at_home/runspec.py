"""Everything a worker must know of a run, as one blob named by its sha256: config, data manifest, tokenizer.

From it and the initial seed a model is built whose layout both sides compare; nothing in it is executed or unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, Field, PrivateAttr, ValidationError, model_validator

from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.config.toml import Section, first_mistake
from diffusion_at_home.data.manifest import DataManifest
from diffusion_at_home.errors import DataError
from diffusion_at_home.frozen_text import FrozenText, frozen_kind
from diffusion_at_home.signing_key import PublicKey

MAX_SPEC_BYTES: Final = 16 * 2**20
"""No run needs more; a larger one is refused before it is read."""


def _without_folders(config: RunConfig) -> RunConfig:
    data = config.data.model_copy(update={"path": Path(config.data.path.name)})
    text = config.model.text.model_copy(update={"tokenizer": Path(config.model.text.tokenizer).name})
    places = {"data": Path(config.judging.data).name, "encoder": Path(config.judging.encoder).name}
    model, judging = config.model.model_copy(update={"text": text}), config.judging.model_copy(update=places)
    return config.model_copy(update={"data": data, "model": model, "judging": judging})


class RunSpec(Section):
    """The run's public specification."""

    run_id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,79}$")]
    """run.name and 8 random hex digits of the run's creation: two runs of one name are not one run."""
    config: Annotated[RunConfig, AfterValidator(_without_folders)]
    """The run's settings; of paths (data, tokenizer, what judges) only the last name, for the rest is nobody's business."""
    data: DataManifest
    """The shards that are leased, and those that are held out."""
    tokenizer: str
    """tokenizer.json; empty where the text encoder is frozen, which has its own beside it."""
    text_encoder: FrozenText | None = None
    """The frozen one; None where it is trained with the denoiser."""
    receipt_key: PublicKey
    """Of the run's own key, which signs receipts."""
    _blob: bytes = PrivateAttr(default=b"")
    """What it was read from: newer software, whose config has more keys, must not give a run another name."""

    @model_validator(mode="after")
    def _text_encoder_agrees(self) -> Self:
        model, text = self.config.model, self.text_encoder
        if model.text.frozen != (text is not None):
            raise ValueError("model.text.encoder and the text encoder contradict each other")
        if text is not None and text.kind is not frozen_kind(model.kind):
            raise ValueError(f"a model of kind {model.kind} does not take a {text.kind}")
        return self

    @property
    def blobs(self) -> dict[str, str]:
        """What a worker fetches of a run whatever its version: the sha256 of each file, and what it is, for people."""
        shards = {entry.sha256: f"shard {entry.name}" for entry in self.data.train}
        files = self.text_encoder.files if self.text_encoder else ()
        return {file.sha256: f"the text encoder's {file.name}" for file in files} | shards

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """See `BaseModel`; what was changed is another blob."""
        copy = super().model_copy(update=update, deep=deep)
        if update:
            copy._blob = b""
        return copy

    def to_bytes(self) -> bytes:
        """The blob."""
        return self._blob or self.model_dump_json(indent=1).encode()

    @property
    def sha256(self) -> str:
        """Name of the blob (hex)."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_bytes(cls, data: bytes) -> RunSpec:
        """Parse a blob. Raises `DataError`."""
        try:
            spec = cls.model_validate_json(data)
        except ValidationError as error:
            raise DataError(f"the run's specification does not parse ({first_mistake(error)}): upgrade") from None
        spec._blob = data
        return spec
