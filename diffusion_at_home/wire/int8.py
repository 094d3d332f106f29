"""Blockwise 8-bit quantization with the codebook of bitsandbytes, which also reads it; a test compares them.

bitsandbytes searches the codebook for each element; here the 16 bits of element / absmax as binary16 are looked up, which on
a CPU is four times as fast and picks the same code but where the ratio is within 2^-12 of the middle between two. It is not
imported: that takes as long as torch itself, in which a coordinator that was killed would be up again.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

BLOCK: Final = 256
"""Elements that share a scale: the block of bitsandbytes' own 8-bit optimizer states."""


def _dynamic_map(*, signed: bool) -> list[float]:
    """256 values: seven decades, each with twice as many as the one below it: Dettmers et al. 2022, section 1.3."""
    values = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (exponent if signed else exponent + 1) + 1)
        decade = 10 ** (exponent - 6) * ((edges[:-1] + edges[1:]) / 2)
        values += [*decade.tolist(), *((-decade).tolist() if signed else ())]
    return sorted(values)


SIGNED_CODEBOOK: Final = _dynamic_map(signed=True)
"""The values that codes stand for, ascending."""
UNSIGNED_CODEBOOK: Final = _dynamic_map(signed=False)
"""Of numbers that are never negative: second moments. No codec uses it."""

_CODEBOOK: Final = torch.tensor(SIGNED_CODEBOOK)


def _codes_of_ratios() -> npt.NDArray[np.uint8]:
    """The nearest code for each binary16, by its bits; that of 0 for what is not a number, 0 / 0 of a block of zeros."""
    ratios = np.nan_to_num(np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32))
    codebook = _CODEBOOK.numpy()
    return np.searchsorted((codebook[1:] + codebook[:-1]) / 2, ratios).astype(np.uint8)


_CODES: Final = _codes_of_ratios()


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize fp32 (n,), n > 0, to codes uint8 (n,) and scales fp32 (ceil(n / BLOCK),).

    A scale is not finite if and only if one of its elements is not.
    """
    padding = -len(x) % BLOCK
    blocks = (nn.functional.pad(x, (0, padding)) if padding else x).view(-1, BLOCK)
    absmax = blocks.abs().amax(dim=1)
    ratios = (blocks / absmax[:, None]).half().view(torch.int16).numpy().view(np.uint16)
    return torch.from_numpy(np.take(_CODES, ratios.reshape(-1)[: len(x)], mode="clip")), absmax


def dequantize(codes: Tensor, absmax: Tensor) -> Tensor:
    """Read codes uint8 (n,) and scales fp32 (ceil(n / BLOCK),) back to fp32 (n,)."""
    values = torch.index_select(_CODEBOOK, 0, codes.int())
    whole = len(values) // BLOCK
    values[: whole * BLOCK].view(-1, BLOCK).mul_(absmax[:whole, None])
    values[whole * BLOCK :].mul_(absmax[whole:])
    return values
