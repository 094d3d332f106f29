"""How far two sets of pictures lie from each other, by their features. Pure functions in float64.

Shapes: N and M pictures, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Gaussian:
    """The Gaussian fitted to a set of features."""

    mean: Floats
    """(F,)"""
    covariance: Floats
    """(F, F)"""

    @classmethod
    def fit(cls, features_NF: Floats) -> Self:
        """Of at least two pictures."""
        return cls(features_NF.mean(axis=0), np.cov(features_NF, rowvar=False, dtype=np.float64))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Heusel et al. 2017, arXiv:1706.08500, eq. 6).

    tr (S_a S_b)^(1/2) is the sum of the square roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2), which is symmetric,
    so that no general matrix needs a square root; tiny eigenvalues that rounding made negative count as zero.

    It falls as the number of pictures grows: compare figures of equal numbers only.
    """
    values_F, vectors_FF = np.linalg.eigh(a.covariance)
    root_FF = (vectors_FF * np.sqrt(values_F.clip(min=0))) @ vectors_FF.T
    cross_F = np.linalg.eigvalsh(root_FF @ b.covariance @ root_FF).clip(min=0)
    distance = np.square(a.mean - b.mean).sum() + np.trace(a.covariance) + np.trace(b.covariance)
    return max(0.0, float(distance - 2 * np.sqrt(cross_F).sum()))


def frechet(x_NF: Floats, y_MF: Floats) -> float:
    """The Frechet distance of two sets of at least two pictures."""
    return frechet_distance(Gaussian.fit(x_NF), Gaussian.fit(y_MF))


def kernel_distance(x_NF: Floats, y_MF: Floats) -> float:
    """The squared maximum mean discrepancy under k(x, y) = (x.y / F + 1)^3, unbiased; of at least two pictures each.

    Binkowski et al. 2018 (arXiv:1801.01401), section 4 and eq. 4. Its mean does not depend on how many pictures there are,
    so small sets are compared fairly; it may be a little below zero.
    """
    N, M = len(x_NF), len(y_MF)
    xx_NN, yy_MM = _kernel(x_NF, x_NF), _kernel(y_MF, y_MF)
    within_x = (xx_NN.sum() - np.trace(xx_NN)) / (N * (N - 1))
    within_y = (yy_MM.sum() - np.trace(yy_MM)) / (M * (M - 1))
    return float(within_x + within_y - 2 * _kernel(x_NF, y_MF).mean())


def spread(
    x_NF: Floats, y_MF: Floats, distance: Callable[[Floats, Floats], float], *, subsets: int, seed: int
) -> float:
    """The standard deviation of `distance` over `subsets` random halves of x: how much it owes to chance.

    Halves, drawn without replacement: a picture drawn twice would count as a copy. At least four pictures.
    """
    generator = np.random.default_rng(seed)
    size = len(x_NF) // 2
    found = [distance(x_NF[generator.permutation(len(x_NF))[:size]], y_MF) for _ in range(subsets)]
    return float(np.std(found, ddof=1))


def _kernel(x_NF: Floats, y_MF: Floats) -> Floats:
    base_NM: Floats = x_NF @ y_MF.T / x_NF.shape[1] + 1
    return base_NM * base_NM * base_NM  # ten times as fast as a power
