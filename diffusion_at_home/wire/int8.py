"""Blockwise 8-bit quantization: the one place where bitsandbytes touches the wire."""

from __future__ import annotations

from typing import Final

import bitsandbytes.functional as bnb
import torch
from torch import Tensor

BLOCK: Final = 256
"""Elements that share a scale: the block of bitsandbytes' own 8-bit optimizer states."""

_CODEBOOK: Final[Tensor] = bnb.create_dynamic_map(signed=True).to(torch.float32)


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize fp32 (n,) to codes uint8 (n,) and scales fp32 (ceil(n / BLOCK),)."""
    codes, state = bnb.quantize_blockwise(x, code=_CODEBOOK, blocksize=BLOCK)
    return codes, state.absmax


def dequantize(codes: Tensor, absmax: Tensor) -> Tensor:
    """Read codes uint8 (n,) and scales fp32 (ceil(n / BLOCK),) back to fp32 (n,)."""
    state = bnb.QuantState(absmax=absmax, code=_CODEBOOK, blocksize=BLOCK, dtype=torch.float32)
    values: Tensor = bnb.dequantize_blockwise(codes, quant_state=state)
    return values


def codebook() -> list[float]:
    """The 256 values a code stands for."""
    values: list[float] = _CODEBOOK.tolist()
    return values
