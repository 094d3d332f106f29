"""Pictures as nobody should make them, and as people do."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageCms

from diffusion_at_home.data.picture import PictureFormat, PictureRules, Unusable, prepare
from diffusion_at_home.data.sources.source import Reason

Pixels = npt.NDArray[np.uint8]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def rules(width: int = 8, height: int = 8, **changes: Any) -> PictureRules:
    """One bucket, and an encoding that keeps every pixel."""
    return PictureRules(buckets=((width, height),), **({"format": PictureFormat.PNG} | changes))


def pixels(raw: bytes, wanted: PictureRules | None = None) -> Pixels:
    """What `prepare` makes of a file: (height, width, 3), or (height, width) if grey is wanted."""
    with Image.open(io.BytesIO(prepare(raw, wanted or rules()).image)) as picture:
        return np.asarray(picture)


def refusal(raw: bytes, wanted: PictureRules | None = None) -> tuple[Reason, str]:
    try:
        prepare(raw, wanted or rules())
    except Unusable as refused:
        return refused.reason, refused.detail
    raise AssertionError("it was taken")


def file_of(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int = 8, height: int = 8, seed: int = 0) -> Image.Image:
    """RGB, every pixel another."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    """RGB, as soft as a photograph out of focus: every encoding keeps it nearly."""
    return noise(5, 4, seed).resize((width, height), Image.Resampling.BICUBIC)


def halves(left: object, right: object, mode: str, side: int = 8) -> Image.Image:
    picture = Image.new(mode, (side, side), left)  # type: ignore[arg-type]  # whatever the mode takes
    picture.paste(right, (side // 2, 0, side, side))  # type: ignore[call-overload]
    return picture


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_declaring(width: int, height: int) -> bytes:
    """A hundred bytes or so, whatever it declares."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG_SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def png_with_late_orientation(picture: Image.Image, orientation: int) -> bytes:
    """Its EXIF data come behind its pixels, as the standard allows."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    whole = file_of(picture)
    end = len(whole) - 12
    return whole[:end] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + whole[end:]


def webp_declaring(width: int, height: int) -> bytes:
    """The canvas of an extended WebP, which its header alone tells."""
    whole = bytearray(file_of(noise(), "WEBP", lossless=True, exif=b"Exif\0\0" + Image.Exif().tobytes()))
    assert whole[12:16] == b"VP8X"
    whole[24:27], whole[27:30] = (width - 1).to_bytes(3, "little"), (height - 1).to_bytes(3, "little")
    return bytes(whole)


def stored_sideways(upright: Image.Image, orientation: int) -> tuple[Image.Image, Image.Exif]:
    """`upright` as a camera stores it that was held in another way, and what it writes beside it."""
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return upright if back is None else upright.transpose(back), exif


def profile_with_red_and_green_exchanged() -> bytes:
    """A valid ICC profile under which what is stored as red is seen as green."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    places = {}
    for index in range(int.from_bytes(data[128:132], "big")):
        entry = 132 + 12 * index
        places[bytes(data[entry : entry + 4])] = entry + 4
    red, green = (places[b"rXYZ"], places[b"gXYZ"])
    data[red : red + 8], data[green : green + 8] = data[green : green + 8], data[red : red + 8]
    return bytes(data)
