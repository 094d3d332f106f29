"""The data set that needs no download: 1,797 real handwritten digits of 8 x 8 pixels, from scikit-learn (extra 'digits').

scikit-learn is imported when the pictures are asked for.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from diffusion_at_home.data.shards import Sample
from diffusion_at_home.errors import DataError

DIGIT_WORDS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

SIDE: Final = 8
"""Pixels."""

SOURCE: Final = (
    "Optical Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak, 1998), UCI Machine Learning Repository, "
    "https://doi.org/10.24432/C50P49, as distributed with scikit-learn"
)
LICENSE: Final = "CC-BY-4.0"

_HELD_OUT_EVERY: Final = 6
"""Every sixth picture of each digit is never trained on."""


def caption(digit: int) -> str:
    """What a picture of `digit` is called."""
    return f"a handwritten {DIGIT_WORDS[digit]}"


def digits_arrays() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """All pictures, (1797, 8, 8) in [0, 1], white on black, and their digits, (1797,). Raises `DataError`."""
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415 -- an extra
    except ImportError:
        raise DataError("scikit-learn is missing: pip install 'diffusion-at-home[digits]'") from None
    found: Any = load_digits()
    return found.images / 16.0, found.target.astype(np.int64)


def digit_samples(*, held_out: bool) -> Iterator[Sample]:
    """The digits of one split, in the source's order: RGB PNGs whose 17 grey levels are exact. Raises `DataError`."""
    return (sample for sample, is_held_out in all_digits() if is_held_out == held_out)


def all_digits() -> Iterator[tuple[Sample, bool]]:
    """All digits in the source's order, each with whether it is held out. Raises `DataError`."""
    pictures_NHW, digits_N = digits_arrays()
    seen = [0] * len(DIGIT_WORDS)
    for index, (picture_HW, digit) in enumerate(zip(pictures_NHW, digits_N.tolist(), strict=True)):
        is_held_out = seen[digit] % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1
        seen[digit] += 1
        sample = Sample(
            key=f"digit-{index:04d}",
            image=_png(picture_HW),
            suffix="png",
            caption=caption(digit),
            source=SOURCE,
            license=LICENSE,
        )
        yield sample, is_held_out


def _png(picture_HW: npt.NDArray[np.float64]) -> bytes:
    levels = np.round(picture_HW * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels).convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()
