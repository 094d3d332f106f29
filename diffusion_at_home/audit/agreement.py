"""How far what a worker handed in is from what somebody else computes for the same lease.

A lease that is trained again gives the same bits only on the same kind of machine by the same plan. Others round in other places,
and an optimizer that starts fresh turns the sign of a tiny gradient into a whole step: two honest results differ. Nearly all of
that is in the direction; lengths agree closely, so the two are judged apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of a claimed delta c with a recomputed one r."""

    cosine: float
    """Of the angle between them; 0 where one of them has no length."""
    length_ratio: float
    """||c|| / ||r||; infinite where only r has none, and 1 where neither has."""
    exact: bool
    """Whether all numbers are the same."""

    @property
    def relative_error(self) -> float:
        """||c - r|| / ||r||, which follows from the other two."""
        if math.isinf(self.length_ratio):
            return math.inf
        if self.exact:
            return 0.0
        squared = 1 + self.length_ratio**2 - 2 * self.length_ratio * self.cosine
        return math.sqrt(max(squared, 0.0))


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What two honest results may differ by."""

    least_cosine: float
    most_stretch: float
    """Most that one may be longer than the other, as a ratio."""

    def allows(self, found: Agreement) -> bool:
        """Whether an honest worker may have handed that in. What is not a number is never allowed."""
        if found.exact:
            return True
        is_long_enough = 1 / self.most_stretch <= found.length_ratio <= self.most_stretch
        return is_long_enough and found.cosine >= self.least_cosine


def agreement(chunks: Iterable[tuple[Tensor, Tensor]]) -> Agreement:
    """Compare vectors given as pairs of chunks, claimed and recomputed, fp32 (m,) each; summed in binary64, a chunk at a time."""
    dot, claimed_squared, recomputed_squared, exact = 0.0, 0.0, 0.0, True
    for claimed, recomputed in chunks:
        exact = exact and torch.equal(claimed, recomputed)
        c, r = claimed.double(), recomputed.double()
        dot += float(torch.dot(c, r))
        claimed_squared += float(torch.dot(c, c))
        recomputed_squared += float(torch.dot(r, r))
    if not recomputed_squared:
        return Agreement(0.0, 1.0 if claimed_squared == 0 else math.inf, exact)
    lengths = math.sqrt(claimed_squared) * math.sqrt(recomputed_squared)
    cosine = dot / lengths if lengths else 0.0
    return Agreement(cosine, math.sqrt(claimed_squared / recomputed_squared), exact)
