"""Muon: the update of a matrix is its momentum made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

For the hidden matrices of a network; everything else keeps Adam. Steps are scaled to the size of AdamW's (Liu et al. 2025,
arXiv:2502.16982, eq. 4), so that one learning rate serves both.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.optim._muon import muon

from diffusion_at_home.config.run import InnerSection
from worker.step.place import StatePlace

_MOMENTUM: Final = 0.95
_NS_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
_NS_STEPS: Final = 5
_NARROWEST: Final = 16


class Muon:
    """Momentum in fp32, 4 bytes an element; a convolution's kernel counts as a matrix of (outputs, all the rest)."""

    def __init__(self, section: InnerSection, shape: torch.Size, place: StatePlace) -> None:
        self._section = section
        self._rows = shape[0]
        self._place = place
        self._momentum = place.zeros(shape.numel(), torch.float32)

    def apply(self, weights: Tensor, gradient: Tensor, begin: int, *, learning_rate: float, step: int) -> None:  # noqa: ARG002
        """See `UpdateRule.apply`; takes the whole matrix only."""
        assert begin == 0
        assert weights.shape == self._momentum.shape
        with self._place.at_hand(self._momentum) as (momentum,):
            matrices = [x.view(self._rows, -1) for x in (weights, gradient, momentum)]
            muon(
                *([matrix] for matrix in matrices),
                foreach=False,
                lr=learning_rate,
                weight_decay=self._section.weight_decay,
                momentum=_MOMENTUM,
                nesterov=True,
                ns_coefficients=_NS_COEFFICIENTS,
                ns_steps=_NS_STEPS,
                eps=1e-7,
                adjust_lr_fn="match_rms_adamw",
                has_complex=False,
            )

    def tensors(self) -> list[Tensor]:
        """See `UpdateRule.tensors`."""
        return [self._momentum]


def is_hidden_matrix(parameter: Tensor) -> bool:
    """Whether Muon is meant for it: a matrix or a kernel, neither side of which is as narrow as a picture's channels."""
    return parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= _NARROWEST
