"""Muon: the update of a matrix is its momentum made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

For the hidden matrices of a network; everything else keeps Adam. Steps are scaled to the size of AdamW's (Liu et al. 2025,
arXiv:2502.16982, eq. 4), so that one learning rate serves both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
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
        self._momentum = place.zeros(shape.numel(), torch.float32)

    def state(self, part: slice) -> list[Tensor]:
        """See `UpdateRule.state`."""
        return [self._momentum[part]]

    def apply(
        self,
        weights: Tensor,
        gradient: Tensor,
        state: Sequence[Tensor],
        *,
        learning_rate: float,
        step: int,  # noqa: ARG002 -- every step is the same
    ) -> None:
        """See `UpdateRule.apply`; takes the whole matrix only."""
        assert weights.shape == self._momentum.shape
        matrices = [x.view(self._rows, -1) for x in (weights, gradient, *state)]
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


def hidden_matrices(model: nn.Module) -> set[nn.Parameter]:
    """What Muon is meant for: matrices and kernels, neither side of which is as narrow as a picture's channels.

    Embeddings are tables of vectors, not maps between them: they keep Adam.
    """
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    return {parameter for parameter in model.parameters() if _is_matrix(parameter)} - tables


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= _NARROWEST
