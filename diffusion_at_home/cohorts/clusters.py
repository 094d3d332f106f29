"""Cuts points into clusters of nearly equal size: k-means in which a crowded cluster has a price.

A point belongs to the cluster k of the least |x - c_k|^2 + price_k (a power diagram), so where it belongs follows from the point
alone: a held-out picture goes where its likes are trained, and equal points are never parted. Pure functions.

Shapes: N points, F features, K clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from diffusion_at_home.errors import DataError

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

_ROUNDS: Final = 30
"""Of moving the centres; they stand still long before, or the points have no clusters."""
_BIDS: Final = 100
"""Of raising and lowering prices in one round."""
_STARTS: Final = 4
"""Choices of the first centres, of which the tightest result is taken."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """Where a point belongs."""

    centres_KF: Floats
    prices_K: Floats
    """The least is 0; in squared distance."""

    def assign(self, points_NF: Floats) -> Labels:
        """The cluster of each point (N,), from 0."""
        return _cheapest(_distances(points_NF, self.centres_KF), self.prices_K)


def cluster(points_NF: Floats, num_clusters: int, *, seed: int, most_ratio: float) -> Clusters:
    """Clusters of which the largest has at most `most_ratio` times the points of the smallest.

    A function of the arguments alone. Raises `DataError` if there is no such cut, as where many points are equal.
    """
    distinct = len(np.unique(points_NF, axis=0))
    if distinct < num_clusters:
        raise DataError(
            f"{len(points_NF)} samples have {distinct} different features: make at most {distinct} cohorts of them"
        )
    found = [_one(points_NF, num_clusters, np.random.default_rng([seed, start])) for start in range(_STARTS)]
    even = [(spread, place) for place, (_, ratio, spread) in enumerate(found) if ratio <= most_ratio]
    if not even:
        best = min(ratio for _, ratio, _ in found)
        raise DataError(
            f"{len(points_NF)} samples cannot be cut into {num_clusters} cohorts of like size: at best the largest has "
            f"{best:.3g} times the smallest; make fewer, or allow that with --most-ratio"
        )
    return found[min(even)[1]][0]


def size_ratio(labels_N: Labels, num_clusters: int) -> float:
    """The largest cluster's size over the smallest's; inf where one is empty."""
    sizes_K = np.bincount(labels_N, minlength=num_clusters)
    return float(sizes_K.max() / sizes_K.min()) if sizes_K.min() else float("inf")


def _one(points_NF: Floats, num_clusters: int, generator: np.random.Generator) -> tuple[Clusters, float, float]:
    """One result with its ratio of sizes, and the mean squared distance to the centres."""
    centres_KF = _first_centres(points_NF, num_clusters, generator)
    labels_N = np.full(len(points_NF), -1, dtype=np.int64)
    prices_K = np.zeros(num_clusters)
    for _ in range(_ROUNDS):
        distances_NK = _distances(points_NF, centres_KF)
        prices_K = _balanced(distances_NK, prices_K)
        before_N, labels_N = labels_N, _cheapest(distances_NK, prices_K)
        if np.array_equal(before_N, labels_N) or len(np.unique(labels_N)) < num_clusters:
            break
        centres_KF = np.stack([points_NF[labels_N == k].mean(axis=0) for k in range(num_clusters)])
    # The last centres with their own prices: what is returned must give these labels again.
    distances_NK = _distances(points_NF, centres_KF)
    prices_K = _balanced(distances_NK, prices_K)
    labels_N = _cheapest(distances_NK, prices_K)
    spread = float(distances_NK[np.arange(len(labels_N)), labels_N].mean())
    return Clusters(centres_KF, prices_K), size_ratio(labels_N, num_clusters), spread


def _first_centres(points_NF: Floats, num_clusters: int, generator: np.random.Generator) -> Floats:
    """Points far from each other: k-means++ (Arthur & Vassilvitskii 2007)."""
    chosen = [int(generator.integers(len(points_NF)))]
    for _ in range(num_clusters - 1):
        nearest_N = _distances(points_NF, points_NF[chosen]).min(axis=1)
        chosen.append(int(generator.choice(len(points_NF), p=nearest_N / nearest_N.sum())))
    return points_NF[chosen].copy()


def _balanced(distances_NK: Floats, prices_K: Floats) -> Floats:
    """The prices (K,) at which the sizes are most alike, looked for from `prices_K` on.

    An auction: whoever has more than its share gets dearer, in steps that shrink whenever they do not help. The best prices
    seen are kept, for points that are equal move together and may swing to and fro.
    """
    N, K = distances_NK.shape
    best_K, best = prices_K, float("inf")
    step = float(distances_NK.std()) or 1.0
    for _ in range(_BIDS):
        sizes_K = np.bincount(_cheapest(distances_NK, prices_K), minlength=K)
        uneven = float(np.abs(sizes_K - N / K).max())
        if uneven < best:
            best, best_K = uneven, prices_K
        else:
            step *= 0.9
        if uneven < 1:
            break
        prices_K = prices_K + step * (sizes_K / N - 1 / K)
    return np.asarray(best_K - best_K.min(), dtype=np.float64)


def _distances(points_NF: Floats, centres_KF: Floats) -> Floats:
    """Squared ones (N, K)."""
    squares = np.square(points_NF).sum(axis=1)[:, None] + np.square(centres_KF).sum(axis=1)
    found: Floats = np.maximum(squares - 2 * points_NF @ centres_KF.T, 0.0)
    return found


def _cheapest(distances_NK: Floats, prices_K: Floats) -> Labels:
    found: Labels = (distances_NK + prices_K).argmin(axis=1).astype(np.int64)
    return found
