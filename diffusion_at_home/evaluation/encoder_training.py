"""Trains a small encoder on the pictures of a data set: two views of one picture are near, of two pictures far.

The loss is NT-Xent (Chen et al. 2020, arXiv:2002.05709, eq. 1). It needs no labels and one picture of each thing, which is
what glyphs are: their captions differ, and there is one picture for each.

Shapes: N pictures of the data set, B of a batch, C channels, S side, F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor

from diffusion_at_home.evaluation.augment import FULL, augment
from diffusion_at_home.evaluation.small_network import SmallNetwork

STEPS: Final = 200
_BATCH: Final = 128
_LEARNING_RATE: Final = 2e-3
_TEMPERATURE: Final = 0.15


def train_network(x_NCSS: Tensor, *, steps: int, seed: int, tell: Callable[[int], None]) -> SmallNetwork:
    """A network trained on pictures (uint8), at least two; deterministic in `seed` on one machine and thread count.

    Leaves torch's global generators as they were. `tell` hears of every step taken.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = SmallNetwork(x_NCSS.shape[1])
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=1e-4)
    order_N = torch.randperm(0)
    for step in range(steps):
        if len(order_N) < min(_BATCH, len(x_NCSS)):
            order_N = torch.randperm(len(x_NCSS), generator=generator)
        batch_BCSS, order_N = x_NCSS[order_N[:_BATCH]].float() / 127.5 - 1, order_N[_BATCH:]
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * _share(step, steps)
        left_BF, right_BF = network(
            torch.cat([augment(batch_BCSS, generator, FULL), augment(batch_BCSS, generator, FULL)])
        ).chunk(2)
        optimizer.zero_grad()
        nt_xent(left_BF, right_BF, _TEMPERATURE).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        tell(step + 1)
    return network.eval().requires_grad_(requires_grad=False)


def nt_xent(left_BF: Tensor, right_BF: Tensor, temperature: float) -> Tensor:
    """The mean loss of 2B views of unit length, of which `left_BF[i]` and `right_BF[i]` show one picture."""
    B = len(left_BF)
    views_VF = torch.cat([left_BF, right_BF])
    similarity_VV = (views_VF @ views_VF.T / temperature).fill_diagonal_(-math.inf)
    partner_V = torch.cat([torch.arange(B, 2 * B), torch.arange(B)])
    return F.cross_entropy(similarity_VV, partner_V)


def _share(step: int, steps: int) -> float:
    """Of the peak learning rate: a short warm-up, then half a cosine."""
    warm_up = max(1, steps // 20)
    return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))
