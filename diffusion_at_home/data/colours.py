"""Pictures of any mode that files have, brought to what screens show: opaque, 8 bits a channel, sRGB."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Final

import numpy as np
from PIL import Image, ImageCms

from diffusion_at_home.data.decoder_errors import DECODER_ERRORS

_MAX_PROFILE_BYTES: Final = 4 * 2**20
"""Those of printing presses have up to 3 MB; longer ones are ignored."""


def flattened(picture: Image.Image) -> Image.Image:
    """A loaded picture as L, RGB or CMYK, what is transparent laid on white. Raises one of `DECODER_ERRORS`."""
    if picture.mode.startswith("I;16"):
        return _grey_of_16_bits(picture)
    if picture.mode in {"I", "F"}:
        raise ValueError("nothing says which of its 32-bit levels are black and white")
    mode = "L" if picture.mode in {"1", "L", "LA", "La"} else "RGB"
    if picture.has_transparency_data:
        translucent = picture.convert(mode + "A")
        canvas = Image.new(mode, picture.size, "white")
        canvas.paste(translucent.convert(mode), mask=translucent.getchannel("A"))
        return canvas
    return picture if picture.mode in {"L", "RGB", "CMYK"} else picture.convert(mode)


def in_srgb(picture: Image.Image, profile: object) -> Image.Image:
    """An L, RGB or CMYK picture as L or RGB, by the ICC `profile` of its file.

    A profile that cannot be read, or is not of the picture's mode, is ignored: the picture is more likely to be right than
    its profile.
    """
    if isinstance(profile, bytes) and 0 < len(profile) <= _MAX_PROFILE_BYTES:
        transform = _to_srgb(profile, picture.mode)
        if transform is not None:
            return transform.apply(picture)
    return picture.convert("RGB") if picture.mode == "CMYK" else picture


@lru_cache(maxsize=8)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (*DECODER_ERRORS, ImageCms.PyCMSError):
        return None


def _grey_of_16_bits(picture: Image.Image) -> Image.Image:
    levels = np.asarray(picture).astype(np.uint32)
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        levels[levels == transparent] = 65535
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
