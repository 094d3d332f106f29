"""A checkpoint's manifest: every file with its sha256, and what the weights are made from. `manifest.json` in the folder.

It comes from a server that nobody trusts: paths are plain and relative, sizes and counts are bounded.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationError

from diffusion_at_home.config.toml import Section
from diffusion_at_home.errors import IntegrityError

MANIFEST_NAME: Final = "manifest.json"
MAX_MANIFEST_BYTES: Final = 16 * 2**20
MAX_FILE_BYTES: Final = 2**40

_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_MAX_FILES: Final = 512
_MAX_CONTRIBUTORS: Final = 1_000_000


def _plain_path(path: str) -> str:
    parts = path.split("/")
    if len(parts) > 8 or not all(_PART.fullmatch(part) for part in parts):
        raise ValueError(f"path {path!r} is not plain and relative")
    return path


FilePath = Annotated[str, AfterValidator(_plain_path)]
"""Relative, with '/', of plain names."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
CheckpointName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,127}$")]


class FileEntry(Section):
    """One file."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]


class Contributor(Section):
    """One worker's part in a version."""

    worker_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    display_name: Annotated[str, Field(max_length=64)]
    """What the volunteer calls itself: never trusted, always escaped."""
    images: Annotated[int, Field(ge=0)]


class DataOrigin(Section):
    """What the weights were trained on."""

    name: str
    digest: Sha256
    """Of the data set's manifest."""
    source: str
    license: str
    images: int


class CheckpointManifest(Section):
    """Everything that can be checked of a checkpoint, and where it comes from."""

    format: Literal[1] = 1
    name: CheckpointName
    run_id: str
    run: str
    title: str
    version: int
    """Outer steps, which is the number of rounds."""
    images: int
    """Images trained."""
    weights_digest: Sha256
    """Of the run's published version, which all workers held."""
    default_weights: Literal["raw", "ema"]
    """What loads without a variant; the other one is the variant of its name."""
    held_out_loss: dict[Literal["raw", "ema"], float | None]
    """None when it was not finite."""
    held_out_bins: tuple[float | None, ...]
    """Of the default weights, by time."""
    parameters: int
    license: str
    created: str
    """ISO 8601, UTC."""
    data: DataOrigin
    contributors: Annotated[tuple[Contributor, ...], Field(max_length=_MAX_CONTRIBUTORS)]
    config: dict[str, Any]
    """The run's resolved config."""
    software: dict[str, str]
    """Versions of what wrote it."""
    call: dict[str, Any]
    """Keyword arguments the pipeline needs besides the prompt, and the sampling the run recommends."""
    files: Annotated[dict[FilePath, FileEntry], Field(max_length=_MAX_FILES)]
    """Every file of the folder but this one."""

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(entry.size_bytes for entry in self.files.values())


def parse_manifest(data: bytes, source: str) -> CheckpointManifest:
    """Parse what came from `source`. Raises `IntegrityError`."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise IntegrityError(f"{source} is larger than any manifest: do not use this checkpoint")
    try:
        return CheckpointManifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:200]
        raise IntegrityError(f"{source} is not a checkpoint's manifest ({where}: {first['msg'][:200]})") from None


def load_manifest(folder: Path) -> CheckpointManifest:
    """The manifest of the checkpoint in `folder`. Raises `IntegrityError`."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise IntegrityError(f"{path} does not exist: {folder} is not a checkpoint, or not a whole one")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise IntegrityError(f"{path} is larger than any manifest: do not use this checkpoint")
    return parse_manifest(path.read_bytes(), str(path))
