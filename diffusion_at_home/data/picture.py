"""From the bytes of any file to a finished picture of its bucket, as if an enemy had made the file.

What a file declares is checked before it is decoded; what cannot be used raises `Unusable` with its reason, and nothing
else is ever raised. The same bytes and rules give the same picture, byte for byte, without any metadata.

Pillow's warnings are silenced while it reads, by a setting of the process: one thread at a time.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from PIL import ExifTags, Image, UnidentifiedImageError

from diffusion_at_home.data.buckets import nearest_bucket, stretch
from diffusion_at_home.data.colours import flattened, in_srgb
from diffusion_at_home.data.decoder_errors import DECODER_ERRORS
from diffusion_at_home.data.duplicates import PictureHash, picture_hash
from diffusion_at_home.data.manifest import Size
from diffusion_at_home.data.shards import MAX_IMAGE_BYTES
from diffusion_at_home.data.sources.source import Reason

_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_JPEG: Final = ("JPEG", "MPO")
"""MPO is a JPEG with others behind it, a preview or a depth map: phones write them, and they are no animations."""

_REDUCING_GAP: Final = 2.0
"""Large pictures are halved cheaply while both sides stay this many times the bucket's, then resampled well: half the time
of resampling alone, and 48 dB from it."""

_Turn = Image.Transpose
_TURNS: Final = {
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}
"""What makes a picture of each EXIF orientation upright (Exif 2.32, tag 274)."""
_SIDEWAYS: Final = (_Turn.TRANSPOSE, _Turn.ROTATE_270, _Turn.TRANSVERSE, _Turn.ROTATE_90)


class PictureFormat(StrEnum):
    """How finished pictures are encoded; the value is the suffix."""

    PNG = "png"
    JPG = "jpg"
    WEBP = "webp"


@dataclass(frozen=True, slots=True)
class PictureRules:
    """What is made of a picture, and what is refused."""

    buckets: tuple[Size, ...]
    """At least one."""
    max_stretch: float = 1.5
    """A picture whose aspect differs by a larger factor from that of its bucket is refused; the crop loses 1 - 1/factor."""
    max_enlargement: float = 1.0
    """A picture that would have to be enlarged by a larger factor is refused."""
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for RGB."""
    format: PictureFormat = PictureFormat.WEBP
    quality: int = 90
    """Of lossy formats, 1 to 100; at most 95 makes sense for JPEG."""
    lossless: bool = False
    """For WebP."""
    max_bytes: int = MAX_IMAGE_BYTES
    """Of the file."""
    max_pixels: int = 2**26
    """That it declares. Decoded, a pixel takes 4 bytes, and 8 where it is translucent."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A finished picture."""

    image: bytes
    """The encoded file."""
    suffix: str
    size: Size
    """Its bucket."""
    hash: PictureHash


class Unusable(Exception):
    """A picture that is refused; `detail` is for a person who wonders."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def prepare(raw: bytes, rules: PictureRules) -> Prepared:
    """The picture in the file `raw`: upright, on white, in sRGB, resized to cover its bucket, the rest cropped evenly.

    Raises:
        Unusable: `raw` is no picture, or not one for this data set.
    """
    with warnings.catch_warnings(action="ignore"):
        picture = _open(raw, rules)
        finished = _fitted(picture, rules)
    if finished.getcolors(maxcolors=1) is not None:
        raise Unusable(Reason.BLANK, "of one colour all over")
    image = _encoded(finished, rules)
    if len(image) > MAX_IMAGE_BYTES:
        raise Unusable(Reason.TOO_LARGE, f"{len(image)} bytes when finished, over the limit of {MAX_IMAGE_BYTES}")
    return Prepared(image=image, suffix=rules.format.value, size=finished.size, hash=picture_hash(finished))


def _open(raw: bytes, rules: PictureRules) -> Image.Image:
    """The picture, of which nothing but what it declares has been read."""
    if not raw:
        raise Unusable(Reason.UNREADABLE, "an empty file")
    if len(raw) > rules.max_bytes:
        raise Unusable(Reason.TOO_LARGE, f"{len(raw)} bytes, over the limit of {rules.max_bytes}")
    with _refusing_what_cannot_be_read():
        picture = Image.open(io.BytesIO(raw), formats=_FORMATS)
        several = picture.format not in _JPEG and bool(getattr(picture, "is_animated", False))
    width, height = picture.size
    if width < 1 or height < 1:
        raise Unusable(Reason.UNREADABLE, f"{width} x {height} pixels")
    if width * height > rules.max_pixels:
        raise Unusable(Reason.TOO_LARGE, f"{width} x {height} pixels, over the limit of {rules.max_pixels}")
    if several:
        raise Unusable(Reason.ANIMATED, f"a {picture.format} of several pictures")
    return picture


def _fitted(picture: Image.Image, rules: PictureRules) -> Image.Image:
    """The decoded picture, of the size of its bucket and of the rules' channels."""
    is_jpeg = picture.format in _JPEG
    with _refusing_what_cannot_be_read():
        if not is_jpeg:  # a PNG may tell its orientation behind its pixels, and a TIFF is turned while it is loaded
            picture.load()
        turn = _turn(picture)
        is_sideways = turn in _SIDEWAYS
    bucket = _bucket(picture.size[::-1] if is_sideways else picture.size, rules)
    target = bucket[::-1] if is_sideways else bucket
    with _refusing_what_cannot_be_read():
        if is_jpeg:
            picture.draft(None, (int(target[0] * _REDUCING_GAP), int(target[1] * _REDUCING_GAP)))
            picture.load()
        opaque = flattened(picture)
    small = opaque.resize(
        target, Image.Resampling.LANCZOS, box=_covering(opaque.size, target), reducing_gap=_REDUCING_GAP
    )
    # Colours come last, when few pixels are left.
    finished = in_srgb(small, picture.info.get("icc_profile")).convert("RGB" if rules.channels == 3 else "L")
    finished.info = {}  # or Pillow would write it into the file
    return finished if turn is None else finished.transpose(turn)


def _bucket(size: Size, rules: PictureRules) -> Size:
    bucket = nearest_bucket(size, rules.buckets, max_stretch=rules.max_stretch)
    if bucket is None:
        least = min(stretch(size, bucket) for bucket in rules.buckets)
        raise Unusable(
            Reason.EXTREME_SHAPE,
            f"{size[0]} x {size[1]} pixels, whose aspect is {least:.2f} times that of the nearest bucket, "
            f"over the limit of {rules.max_stretch}",
        )
    enlargement = max(bucket[0] / size[0], bucket[1] / size[1])
    if enlargement > rules.max_enlargement:
        raise Unusable(
            Reason.TOO_SMALL,
            f"{size[0]} x {size[1]} pixels would be enlarged {enlargement:.2f} times to {bucket[0]} x {bucket[1]}, "
            f"over the limit of {rules.max_enlargement}",
        )
    return bucket


def _covering(size: Size, target: Size) -> tuple[float, float, float, float]:
    """The largest box of the shape of `target` in the middle of `size`: left, top, right, bottom (pixels)."""
    width, height = float(size[0]), float(size[1])
    if size[0] * target[1] >= size[1] * target[0]:
        width = size[1] * target[0] / target[1]
    else:
        height = size[0] * target[1] / target[0]
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return left, top, left + width, top + height


def _turn(picture: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except DECODER_ERRORS:
        return None  # what is wrong with its EXIF data is not wrong with the picture


def _encoded(picture: Image.Image, rules: PictureRules) -> bytes:
    buffer = io.BytesIO()
    match rules.format:
        case PictureFormat.PNG:
            picture.save(buffer, "PNG")
        case PictureFormat.JPG:
            picture.save(buffer, "JPEG", quality=rules.quality, optimize=True)
        case PictureFormat.WEBP:  # method 4, the default, takes twice the time for 0.6 % fewer bytes
            picture.save(buffer, "WEBP", quality=rules.quality, lossless=rules.lossless, method=2)
    return buffer.getvalue()


@contextmanager
def _refusing_what_cannot_be_read() -> Iterator[None]:
    try:
        yield
    except Image.DecompressionBombError as error:
        raise Unusable(Reason.TOO_LARGE, str(error)) from None
    except UnidentifiedImageError:
        raise Unusable(Reason.UNREADABLE, f"no {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}") from None
    except DECODER_ERRORS as error:
        raise Unusable(Reason.UNREADABLE, f"{error or type(error).__name__}") from None
