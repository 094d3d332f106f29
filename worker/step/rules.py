"""Update rules: how one tensor's weights follow its gradient, given as fp32 slices of the flattened tensor.

Owns bitsandbytes' optimizer kernels. Adam works on each element alone, so its state is cut like the weights are; the
8-bit state has one scale for each 256 elements, so cuts fall on multiples of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import bitsandbytes.functional as bnb
import torch
from torch import Tensor
from torch.optim.adamw import adamw

from diffusion_at_home.config.run import InnerSection

SLICE_ELEMENTS: Final = 1 << 22
"""Updated at once: 16 MiB of fp32. A multiple of the block of 8-bit states."""

_BLOCK: Final = 256
_FEWEST_8BIT: Final = 4096
"""Smaller tensors (norms, biases) keep 32-bit state, as bitsandbytes' own optimizers do."""


class UpdateRule(Protocol):
    """The state of one tensor's optimizer, and its step."""

    def apply(self, weights: Tensor, gradient: Tensor, begin: int, *, learning_rate: float, step: int) -> None:
        """Move fp32 `weights`, elements from `begin` on, in place; `step` counts from 1."""

    def tensors(self) -> list[Tensor]:
        """The state."""


class AdamW32:
    """AdamW with fp32 state: 8 bytes an element."""

    def __init__(self, section: InnerSection, num_elements: int, device: torch.device) -> None:
        self._section = section
        self._state1 = torch.zeros(num_elements, device=device)
        self._state2 = torch.zeros(num_elements, device=device)

    def apply(self, weights: Tensor, gradient: Tensor, begin: int, *, learning_rate: float, step: int) -> None:
        """See `UpdateRule.apply`."""
        part = slice(begin, begin + len(weights))
        adamw(
            [weights],
            [gradient],
            [self._state1[part]],
            [self._state2[part]],
            [],
            [torch.tensor(float(step - 1), device=weights.device)],
            fused=True,
            amsgrad=False,
            beta1=self._section.beta1,
            beta2=self._section.beta2,
            lr=learning_rate,
            weight_decay=self._section.weight_decay,
            eps=1e-8,
            maximize=False,
        )

    def tensors(self) -> list[Tensor]:
        """See `UpdateRule.tensors`."""
        return [self._state1, self._state2]


@dataclass(frozen=True, slots=True)
class _Blocks:
    codes: Tensor
    """uint8"""
    absmax: Tensor
    """fp32, one for each block."""
    codebook: Tensor

    @classmethod
    def zeros(cls, num_elements: int, codebook: Tensor) -> _Blocks:
        device = codebook.device
        codes = torch.zeros(num_elements, dtype=torch.uint8, device=device)
        return cls(codes, torch.zeros(-(-num_elements // _BLOCK), device=device), codebook)

    def part(self, begin: int, end: int) -> tuple[Tensor, Tensor]:
        return self.codes[begin:end], self.absmax[begin // _BLOCK : -(-end // _BLOCK)]


class AdamW8bit:
    """AdamW with blockwise 8-bit state by bitsandbytes: 2 bytes an element."""

    def __init__(self, section: InnerSection, num_elements: int, device: torch.device) -> None:
        self._section = section
        self._first = _Blocks.zeros(num_elements, _codebook(device, signed=True))
        self._second = _Blocks.zeros(num_elements, _codebook(device, signed=False))

    def apply(self, weights: Tensor, gradient: Tensor, begin: int, *, learning_rate: float, step: int) -> None:
        """See `UpdateRule.apply`."""
        assert begin % _BLOCK == 0
        end = begin + len(weights)
        (state1, absmax1), (state2, absmax2) = self._first.part(begin, end), self._second.part(begin, end)
        bnb.optimizer_update_8bit_blockwise(
            "adam",
            gradient,
            weights,
            state1,
            state2,
            self._section.beta1,
            self._section.beta2,
            0.0,  # beta3 and alpha are of another optimizer
            0.0,
            1e-8,
            step,
            learning_rate,
            self._first.codebook,
            self._second.codebook,
            absmax1,
            absmax2,
            weight_decay=self._section.weight_decay,
        )

    def tensors(self) -> list[Tensor]:
        """See `UpdateRule.tensors`."""
        return [self._first.codes, self._first.absmax, self._second.codes, self._second.absmax]


def adamw8bit(section: InnerSection, num_elements: int, device: torch.device) -> UpdateRule:
    """8-bit state where it pays."""
    kind = AdamW8bit if num_elements >= _FEWEST_8BIT else AdamW32
    return kind(section, num_elements, device)


_CODEBOOKS: dict[tuple[torch.device, bool], Tensor] = {}


def _codebook(device: torch.device, *, signed: bool) -> Tensor:
    key = (device, signed)
    if key not in _CODEBOOKS:
        _CODEBOOKS[key] = bnb.create_dynamic_map(signed=signed).to(device)
    return _CODEBOOKS[key]
