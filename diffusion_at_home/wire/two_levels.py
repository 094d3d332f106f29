"""Two levels for the largest magnitudes of a block: a scale, and RATIO of it.

For each block this finds how many magnitudes to keep, how many of those decode to the scale itself and which scale makes
the squared error least. Sums run in a fixed order in binary64, so every machine gets the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

RATIO: Final = 0.6875
"""The lower level by the upper one: the least error on deltas and updates of trainings of the digits, and within 1 % of
the least for Gaussian numbers. 11/16, so that its product with a scale is exact."""

_MOST_FITS: Final = 8


@dataclass(frozen=True, slots=True)
class Fit:
    """What was found for each of b blocks. All are (b,)."""

    kept: npt.NDArray[np.int64]
    """How many magnitudes, the largest ones, are kept."""
    upper: npt.NDArray[np.int64]
    """How many of those, the largest ones, decode to the scale: at least one where any is kept."""
    scale: npt.NDArray[np.float64]


def fit(magnitudes_BK: npt.NDArray[np.float32], kept: npt.NDArray[np.int64]) -> Fit:
    """Fit levels to each row of descending `magnitudes_BK`, of whose first `kept`, (b,), none is zero.

    For a given number kept, every split into upper and lower ones is tried: the scale is then that of least squares. What
    is nearer to zero than to the lower level is left out, and the rest fitted again, up to a fixed number of times.
    """
    sums_BK = np.cumsum(magnitudes_BK, axis=1, dtype=np.float64)
    found = _best_split(sums_BK, kept)
    for _ in range(_MOST_FITS - 1):
        nearer_BK = magnitudes_BK >= (RATIO / 2 * found.scale)[:, None]
        fewer = np.minimum(found.kept, nearer_BK.sum(axis=1))
        if np.array_equal(fewer, found.kept):
            break
        found = _best_split(sums_BK, fewer)
    return found


def _best_split(sums_BK: npt.NDArray[np.float64], kept: npt.NDArray[np.int64]) -> Fit:
    """The least squares of each number of upper ones: scale = N / D lowers the squared error by N^2 / D."""
    upper_K = np.arange(1, sums_BK.shape[1] + 1)
    kept_B1 = kept[:, None]
    total_B1 = np.take_along_axis(sums_BK, np.maximum(kept_B1 - 1, 0), axis=1)
    numerator_BK = (1 - RATIO) * sums_BK + RATIO * total_B1
    denominator_BK = (1 - RATIO**2) * upper_K + RATIO**2 * kept_B1
    gain_BK = np.where(upper_K <= kept_B1, numerator_BK**2 / denominator_BK, -1.0)
    best_B1 = gain_BK.argmax(axis=1)[:, None]
    scale_B1 = np.take_along_axis(numerator_BK, best_B1, axis=1) / np.take_along_axis(denominator_BK, best_B1, axis=1)
    return Fit(kept, np.minimum(best_B1[:, 0] + 1, kept), np.where(kept > 0, scale_B1[:, 0], 0.0))
