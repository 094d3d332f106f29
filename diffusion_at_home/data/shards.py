"""The shard format: a WebDataset tar, made the same byte for byte each time, and read as if an enemy had made it.

Every sample is three members in a row: `<key>.png` (or .jpg, .webp), `<key>.txt` (the caption, UTF-8), `<key>.json`
(`source` and `license`; `author` and the list `captions` of further captions, where there are any). All pictures of a shard
have one size. Reading extracts nothing to disk, knows plain files only (no link, no sparse file, no extended
header), and checks every declared size before it allocates anything.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ValidationError

from diffusion_at_home.data.decoder_errors import DECODER_ERRORS
from diffusion_at_home.data.manifest import ShardEntry, Size
from diffusion_at_home.errors import DataError, storage_errors

if TYPE_CHECKING:
    from torch import Tensor

IMAGE_SUFFIXES: Final = ("png", "jpg", "webp")
MAX_IMAGE_BYTES: Final = 64 * 2**20
MAX_TEXT_BYTES: Final = 64 * 2**10

_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_LIMITS: Final = {**dict.fromkeys(IMAGE_SUFFIXES, MAX_IMAGE_BYTES), "txt": MAX_TEXT_BYTES, "json": MAX_TEXT_BYTES}


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture with its caption."""

    key: str
    """Unique in its shard."""
    image: bytes
    """The encoded file."""
    suffix: str
    """One of IMAGE_SUFFIXES."""
    caption: str
    source: str
    """Where the picture comes from."""
    license: str
    author: str = ""
    further_captions: tuple[str, ...] = ()
    """Others of the same picture, shorter or longer; training takes one of all at random."""


def write_shard(path: Path, samples: Iterable[Sample], size: Size) -> ShardEntry:
    """Write `samples` of `size` to `path`, durable and all or nothing. Raises `DataError` on a bad one, `StorageError`."""
    temporary, keys = path.with_suffix(".tmp"), set[str]()
    with storage_errors(path.parent), temporary.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in samples:
                if not _KEY.fullmatch(sample.key) or sample.key in keys:
                    raise DataError(f"sample key {sample.key!r} is not plain or not unique in {path.name}")
                keys.add(sample.key)
                _add_sample(tar, sample)
        file.flush()
        os.fsync(file.fileno())
        size_bytes = file.tell()
    with storage_errors(path.parent):
        temporary.replace(path)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ShardEntry(
        name=path.name, sha256=sha256, size_bytes=size_bytes, num_samples=len(keys), width=size[0], height=size[1]
    )


def read_shard(path: Path, entry: ShardEntry) -> list[Sample]:
    """The samples of the shard in `path`, in order. Raises `DataError` that names shard and member.

    The caller has checked its sha256 where it comes from outside; this checks that it is what the format says.
    """
    parts: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(path, mode="r:", tarinfo=_PlainMember) as tar:
            for member in tar:
                key, suffix = _member(path, member)
                file = tar.extractfile(member)
                assert file is not None  # a regular file
                files = parts.setdefault(key, {})
                if suffix in files:
                    raise DataError(f"{path}: {member.name} comes twice")
                files[suffix] = file.read(member.size)
                if len(parts) > entry.num_samples:
                    raise DataError(f"{path}: more than the {entry.num_samples} samples of the manifest")
    except FileNotFoundError:
        raise DataError(f"shard {path} is missing: build the data set again with `dah data build`") from None
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path} is not a shard ({error}): build the data set again with `dah data build`") from None
    if len(parts) != entry.num_samples:
        raise DataError(f"{path} has {len(parts)} samples instead of {entry.num_samples}")
    return [_sample(path, key, files) for key, files in parts.items()]


def decode_images(samples: Sequence[Sample], size: Size, channels: int) -> Tensor:
    """The pictures of `samples`, all of `size`: fp32 (N, channels, height, width) in [-1, 1]. Raises `DataError`."""
    import numpy as np  # noqa: PLC0415 -- writing and listing shards needs no torch
    import torch  # noqa: PLC0415

    width, height = size
    pictures = np.empty((len(samples), height, width, channels), dtype=np.uint8)
    for index, sample in enumerate(samples):
        picture = decode_image(sample, size, "L" if channels == 1 else "RGB")
        pictures[index] = np.asarray(picture).reshape(height, width, channels)
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def open_image(sample: Sample, size: Size) -> Image.Image:
    """The picture, of which only the header is read, and found to be of `size` (width, height). Raises `DataError`."""
    try:
        picture = Image.open(io.BytesIO(sample.image), formats=("PNG", "JPEG", "WEBP"))
    except UnidentifiedImageError:
        raise DataError(f"sample {sample.key} is not a picture") from None
    except DECODER_ERRORS as error:
        raise DataError(f"sample {sample.key} is not a picture ({error})") from None
    if picture.size != size:
        raise DataError(f"sample {sample.key} has {picture.size} pixels instead of {size}")
    return picture


def decode_image(sample: Sample, size: Size, mode: str) -> Image.Image:
    """The picture of `size` (width, height) in Pillow's `mode`. Raises `DataError`."""
    with open_image(sample, size) as picture:
        try:
            return picture.convert(mode)
        except DECODER_ERRORS as error:
            raise DataError(f"sample {sample.key} is a damaged picture ({error})") from None


def _add_sample(tar: tarfile.TarFile, sample: Sample) -> None:
    facts = _Facts(
        license=sample.license, source=sample.source, author=sample.author, captions=sample.further_captions
    ).model_dump_json(exclude_defaults=True)
    for suffix, data in ((sample.suffix, sample.image), ("txt", sample.caption.encode()), ("json", facts.encode())):
        if suffix not in _LIMITS or len(data) > _LIMITS[suffix]:
            raise DataError(
                f"sample {sample.key}: .{suffix} is no member of a shard or has over {_LIMITS.get(suffix)} bytes"
            )
        member = tarfile.TarInfo(f"{sample.key}.{suffix}")  # no owner, mode or time but the defaults: the same bytes
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


class _PlainMember(tarfile.TarInfo):
    """A member whose header is refused before anything it declares is believed.

    `tarfile` follows extended headers, which may declare any size, and steps back over a negative one for ever.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise tarfile.ReadError(f"{member.name!r} is not a plain file")
        if not 0 <= member.size <= MAX_IMAGE_BYTES:
            raise tarfile.ReadError(
                f"{member.name!r} declares {member.size} bytes, over the limit of {MAX_IMAGE_BYTES}"
            )
        return member


class _Facts(BaseModel):
    """The .json of a sample."""

    license: str
    source: str
    author: str = ""
    captions: tuple[str, ...] = ()


def _member(path: Path, member: tarfile.TarInfo) -> tuple[str, str]:
    key, _, suffix = member.name.rpartition(".")
    if not _KEY.fullmatch(key) or suffix not in _LIMITS:
        raise DataError(f"{path}: {member.name!r} is no member of a shard")
    if member.size > _LIMITS[suffix]:
        raise DataError(f"{path}: {member.name} has {member.size} bytes, over the limit of {_LIMITS[suffix]}")
    return key, suffix


def _sample(path: Path, key: str, files: dict[str, bytes]) -> Sample:
    images = [suffix for suffix in IMAGE_SUFFIXES if suffix in files]
    if len(images) != 1 or "txt" not in files or "json" not in files:
        raise DataError(f"{path}: sample {key} has .{', .'.join(sorted(files))} instead of one picture, .txt and .json")
    try:
        caption = files["txt"].decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {key}.txt is not UTF-8 ({error.reason} at byte {error.start})") from None
    try:
        facts = _Facts.model_validate_json(files["json"])
    except ValidationError as error:
        raise DataError(f"{path}: {key}.json is not a sample's facts ({error.errors()[0]['msg']})") from None
    return Sample(
        key=key,
        image=files[images[0]],
        suffix=images[0],
        caption=caption,
        source=facts.source,
        license=facts.license,
        author=facts.author,
        further_captions=facts.captions,
    )
