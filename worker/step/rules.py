"""Update rules: how one tensor's weights follow its gradient, given as fp32 slices of the flattened tensor.

Owns bitsandbytes' optimizer kernels, and loads them at the first step that needs them: with torch's compiler, which they bring
along, that takes longer than torch itself. Adam works on each element alone, so its state is cut like the weights are; the
8-bit state has one scale for each 256 elements, so cuts fall on multiples of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from diffusion_at_home.config.run import InnerSection
from diffusion_at_home.wire.int8 import SIGNED_CODEBOOK, UNSIGNED_CODEBOOK
from worker.step.place import StatePlace

SLICE_ELEMENTS: Final = 1 << 22
"""Updated at once: 16 MiB of fp32. A multiple of the block of 8-bit states."""

_BLOCK: Final = 256
_FEWEST_8BIT: Final = 4096
"""Smaller tensors (norms, biases) keep 32-bit state, as bitsandbytes' own optimizers do."""


_EPS: Final = 1e-8


class Codebooks:
    """What the codes of 8-bit state stand for, on one device."""

    def __init__(self, device: torch.device) -> None:
        self.signed = torch.tensor(SIGNED_CODEBOOK, device=device)
        """Of the first moment."""
        self.unsigned = torch.tensor(UNSIGNED_CODEBOOK, device=device)
        """Of the second moment."""


class UpdateRule(Protocol):
    """The state of one tensor's optimizer, and its step. `part` is a slice of the flattened tensor."""

    def state(self, part: slice) -> list[Tensor]:
        """What is kept for `part` between steps, wherever it lies."""

    def apply(
        self, weights: Tensor, gradient: Tensor, state: Sequence[Tensor], *, learning_rate: float, step: int
    ) -> None:
        """Move fp32 `weights` in place; `state` is that of their part, on the device; `step` counts from 1."""


class AdamW32:
    """AdamW with fp32 state: 8 bytes an element."""

    def __init__(self, section: InnerSection, num_elements: int, place: StatePlace) -> None:
        self._section = section
        self._moments = [place.zeros(num_elements, torch.float32) for _ in range(2)]

    def state(self, part: slice) -> list[Tensor]:
        """See `UpdateRule.state`."""
        return [moment[part] for moment in self._moments]

    def apply(
        self, weights: Tensor, gradient: Tensor, state: Sequence[Tensor], *, learning_rate: float, step: int
    ) -> None:
        """See `UpdateRule.apply`."""
        first, second = state
        adamw(
            [weights],
            [gradient],
            [first],
            [second],
            [],
            [torch.full((), float(step - 1), device=weights.device)],
            fused=True,
            amsgrad=False,
            beta1=self._section.beta1,
            beta2=self._section.beta2,
            lr=learning_rate,
            weight_decay=self._section.weight_decay,
            eps=_EPS,
            maximize=False,
        )


class AdamW8bit:
    """AdamW with blockwise 8-bit state by bitsandbytes: 2 bytes an element, and a scale for each block of each moment."""

    def __init__(self, section: InnerSection, num_elements: int, place: StatePlace, codebooks: Codebooks) -> None:
        self._section = section
        self._codebooks = codebooks
        num_blocks = -(-num_elements // _BLOCK)
        self._codes = [place.zeros(num_elements, torch.uint8) for _ in range(2)]
        self._absmax = [place.zeros(num_blocks, torch.float32) for _ in range(2)]

    def state(self, part: slice) -> list[Tensor]:
        """See `UpdateRule.state`."""
        assert part.start % _BLOCK == 0
        blocks = slice(part.start // _BLOCK, -(-part.stop // _BLOCK))
        return [*(codes[part] for codes in self._codes), *(absmax[blocks] for absmax in self._absmax)]

    def apply(
        self, weights: Tensor, gradient: Tensor, state: Sequence[Tensor], *, learning_rate: float, step: int
    ) -> None:
        """See `UpdateRule.apply`."""
        import bitsandbytes.functional as bnb  # noqa: PLC0415 -- see the module

        first, second, absmax_first, absmax_second = state
        bnb.optimizer_update_8bit_blockwise(
            "adam",
            gradient,
            weights,
            first,
            second,
            self._section.beta1,
            self._section.beta2,
            0.0,  # beta3 and alpha are of another optimizer
            0.0,
            _EPS,
            step,
            learning_rate,
            self._codebooks.signed,
            self._codebooks.unsigned,
            absmax_first,
            absmax_second,
            weight_decay=self._section.weight_decay,
        )


def adamw8bit(section: InnerSection, num_elements: int, place: StatePlace, codebooks: Codebooks) -> UpdateRule:
    """8-bit state where it pays."""
    if num_elements < _FEWEST_8BIT:
        return AdamW32(section, num_elements, place)
    return AdamW8bit(section, num_elements, place, codebooks)
