"""Encoders: what turns pictures into features, by name and sha256, so that figures of two encoders are never compared.

An encoder is a folder. One that was made here (`small_encoder.py`) holds `encoder.json`; any other must hold a vision model that
transformers loads from safetensors (`vision_encoder.py`). Nothing in either is unpickled or executed.

Features have length sqrt(F), so a dot product is F times the cosine, whatever network they come from.

Shapes: N pictures, B of a chunk, S side, F features.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor

from diffusion_at_home.errors import DataError
from diffusion_at_home.evaluation.distances import Floats

ENCODER_NAME: Final = "encoder.json"
_CHUNK_PIXELS: Final = 2**18


class Encoder(ABC):
    """A network that is not trained any more."""

    name: str
    """For people."""
    sha256: str
    """Of everything that its features depend on (hex)."""
    side: int
    """Of the square pictures it takes (pixels)."""

    @abstractmethod
    def _encode(self, x_BCSS: Tensor) -> Tensor:
        """Features of any length (B, F) of RGB pictures in [-1, 1]."""

    def features(self, pictures_NCHW: Tensor) -> Floats:
        """Features (N, F), float64 and of length sqrt(F), of RGB pictures of any one size in [-1, 1].

        Raises `DataError` if a picture is not finite.
        """
        if not pictures_NCHW.isfinite().all():
            raise DataError("a picture has pixels that are not finite: these weights are broken")
        chunk = max(1, _CHUNK_PIXELS // self.side**2)
        with torch.inference_mode():
            parts = [self._encode(squared(x_BCHW, self.side)) for x_BCHW in torch.split(pictures_NCHW, chunk)]
        features_NF = F.normalize(torch.cat(parts).double(), dim=1)
        found: Floats = (features_NF * math.sqrt(features_NF.shape[1])).numpy()
        return found


def squared(x_BCHW: Tensor, side: int) -> Tensor:
    """Pictures stretched to `side` x `side`, smoothed where they shrink."""
    if x_BCHW.shape[-2:] == (side, side):
        return x_BCHW
    return F.interpolate(x_BCHW, (side, side), mode="bilinear", antialias=True, align_corners=False)


def load_encoder(folder: Path) -> Encoder:
    """The encoder in `folder`. Raises `DataError` if there is none, or if it is not what it says."""
    if not folder.is_dir():
        raise DataError(f"the encoder {folder} is not a folder: name one with an encoder or a vision model")
    if (folder / ENCODER_NAME).is_file():
        from diffusion_at_home.evaluation.small_encoder import SmallEncoder  # noqa: PLC0415 -- it is an `Encoder`

        return SmallEncoder.load(folder)
    from diffusion_at_home.evaluation.vision_encoder import VisionEncoder  # noqa: PLC0415 -- loads transformers

    return VisionEncoder(folder)
