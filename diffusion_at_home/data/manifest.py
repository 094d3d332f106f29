"""A data set's manifest: what its shards are, where they come from and under which licence. `manifest.json` beside them."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from diffusion_at_home.config.toml import Section, first_mistake
from diffusion_at_home.errors import DataError, storage_errors

MANIFEST_NAME: Final = "manifest.json"
AUTOENCODER_NAME: Final = "autoencoder"
"""Folder in a data set of latents."""

MAX_SHARD_BYTES: Final = 4 * 2**30
MAX_SHARD_SAMPLES: Final = 1_000_000
MAX_SHARDS: Final = 1_000_000
MAX_SIDE: Final = 8192
_MAX_MANIFEST_BYTES: Final = 256 * 2**20

_REMEDY: Final = "build the data set again with `dah data build`"


Size = tuple[int, int]
"""Width and height (pixels)."""


class AutoencoderKind(StrEnum):
    """A class of diffusers."""

    KL = "AutoencoderKL"
    DC = "AutoencoderDC"
    """Deterministic: its posterior has no spread."""


class LatentSpace(Section):
    """What an autoencoder makes of pictures, as pipelines take it: (posterior - shift_factor) x scaling_factor."""

    kind: AutoencoderKind
    """The autoencoder's class."""
    autoencoder: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """sha256 of its weights (hex), see `model.autoencoder.weights_digest`."""
    channels: Annotated[int, Field(gt=0, le=1024)]
    """Of the latents."""
    factor: Annotated[int, Field(gt=0, le=256)]
    """Pixels on a side for each element of latents."""
    scaling_factor: Annotated[float, Field(gt=0)]
    """By which the autoencoder's own latents are multiplied, so that their variance is about 1."""
    shift_factor: float
    """What is subtracted before."""


class AutoencoderFile(Section):
    """One file of the autoencoder, below `AUTOENCODER_NAME` in the data set's folder."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    """Plain: no folders."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the whole file (hex)."""
    size_bytes: Annotated[int, Field(ge=0)]
    """Of the whole file."""


class Latents(Section):
    """What makes a data set one of latents."""

    space: LatentSpace
    """Where they lie."""
    pictures: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Digest of the data set that was encoded."""
    files: Annotated[tuple[AutoencoderFile, ...], Field(max_length=100)] = ()
    """The autoencoder's, as diffusers saves it: whoever has the data set can decode it."""


class ShardEntry(Section):
    """One shard."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    """File name, plain: no folders."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the whole file (hex)."""
    size_bytes: Annotated[int, Field(gt=0, le=MAX_SHARD_BYTES)]
    """Of the whole file."""
    num_samples: Annotated[int, Field(gt=0, le=MAX_SHARD_SAMPLES)]
    """Pictures, each with its caption."""
    width: Annotated[int, Field(gt=0, le=MAX_SIDE)]
    """Of each picture (pixels), also where the shard holds its latents."""
    height: Annotated[int, Field(gt=0, le=MAX_SIDE)]
    """Of each picture (pixels), also where the shard holds its latents."""

    @property
    def size(self) -> Size:
        """The bucket: width and height of each picture."""
        return self.width, self.height


class DataManifest(Section):
    """One data set: shards of one size bucket each."""

    format: Literal[1] = 1
    """Of this file and of the shards."""
    name: Annotated[str, Field(min_length=1, max_length=64)]
    """Short name of the data set, which is that of its source."""
    source: Annotated[str, Field(max_length=2000)]
    """Where the pictures come from."""
    license: Annotated[str, Field(min_length=1, max_length=200)]
    """SPDX identifier where there is one."""
    channels: Literal[1, 3] = 3
    """Of the pictures: 1 for grey, 3 for RGB."""
    latents: Latents | None = None
    """Of a data set of latents, whose shards are as in `data/latents.py`; without it they are as in `data/shards.py`."""
    train: Annotated[tuple[ShardEntry, ...], Field(min_length=1, max_length=MAX_SHARDS)]
    """What is trained on."""
    held_out: Annotated[tuple[ShardEntry, ...], Field(max_length=MAX_SHARDS)] = ()
    """Never trained on."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [entry.name for entry in (*self.train, *self.held_out)]
        if len(set(names)) != len(names):
            raise ValueError("two shards have one name")
        return self

    @model_validator(mode="after")
    def _latents_are_whole(self) -> Self:
        factor = self.latents.space.factor if self.latents else 1
        for entry in (*self.train, *self.held_out):
            if entry.width % factor or entry.height % factor:
                raise ValueError(f"{entry.width} x {entry.height} pixels of {entry.name} are no multiples of {factor}")
        return self

    @property
    def num_train_images(self) -> int:
        """Samples in all train shards."""
        return sum(entry.num_samples for entry in self.train)

    @property
    def digest(self) -> str:
        """sha256 (hex) of the manifest's canonical JSON: it names the data set."""
        return hashlib.sha256(self.model_dump_json(exclude_none=True).encode()).hexdigest()

    @classmethod
    def load(cls, folder: Path) -> DataManifest:
        """Read the manifest of the data set in `folder`. Raises `DataError`."""
        path = folder / MANIFEST_NAME
        if not path.is_file():
            raise DataError(f"{path} does not exist: make the data set with `dah data build`")
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise DataError(f"{path} is larger than any manifest: {_REMEDY}")
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise DataError(f"{path} is not a data set's manifest ({first_mistake(error)}): {_REMEDY}") from None

    def save(self, folder: Path) -> None:
        """Write the manifest into `folder`, last of all its files. Raises `StorageError`."""
        path = folder / MANIFEST_NAME
        with storage_errors(folder):
            temporary = path.with_suffix(".tmp")
            temporary.write_text(self.model_dump_json(indent=1, exclude_none=True) + "\n", encoding="utf-8")
            temporary.replace(path)


def verify(folder: Path, manifest: DataManifest) -> None:
    """Check every shard in `folder` against `manifest`. Raises `DataError` that names the first bad one."""
    for entry in (*manifest.train, *manifest.held_out):
        _verify_file("shard", folder / entry.name, entry)
    for file in manifest.latents.files if manifest.latents else ():
        _verify_file("file", folder / AUTOENCODER_NAME / file.name, file)


def _verify_file(what: str, path: Path, entry: ShardEntry | AutoencoderFile) -> None:
    if not path.is_file():
        raise DataError(f"{what} {path} is missing: {_REMEDY}")
    size_bytes = path.stat().st_size
    if size_bytes != entry.size_bytes:
        raise DataError(f"{what} {path} has {size_bytes} bytes instead of {entry.size_bytes}: {_REMEDY}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != entry.sha256:
        raise DataError(f"{what} {path} is corrupt (its sha256 is not the manifest's): {_REMEDY}")
