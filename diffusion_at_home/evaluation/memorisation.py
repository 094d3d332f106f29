"""Whether drawn pictures are copies of training pictures: how far each is from its nearest one.

Shapes: N training pictures, M others, D dimensions (features, or pixels).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from diffusion_at_home.evaluation.distances import Floats

NEAR_QUANTILE: Final = 0.01
"""A picture is suspiciously near when all but this share of training pictures are farther from each other."""


def nearest(x_MD: Floats, training_ND: Floats) -> Floats:
    """The root mean square difference (M,) of each of `x_MD` to its nearest training picture."""
    found_M: Floats = np.sqrt(_squares(x_MD, training_ND).min(axis=1) / x_MD.shape[1])
    return found_M


def nearest_other(training_ND: Floats) -> Floats:
    """The same (N,) of each training picture to its nearest other one; at least two."""
    squares_NN = _squares(training_ND, training_ND)
    np.fill_diagonal(squares_NN, np.inf)
    found_N: Floats = np.sqrt(squares_NN.min(axis=1) / training_ND.shape[1])
    return found_N


def near_limit(training_ND: Floats) -> float:
    """The distance below which a picture is suspiciously near."""
    return float(np.quantile(nearest_other(training_ND), NEAR_QUANTILE))


def _squares(x_MD: Floats, y_ND: Floats) -> Floats:
    """|x - y|^2 (M, N), as |x|^2 + |y|^2 - 2 x.y; what rounding made negative counts as zero."""
    squares_MN: Floats = np.square(x_MD).sum(axis=1)[:, None] + np.square(y_ND).sum(axis=1)[None] - 2 * x_MD @ y_ND.T
    np.clip(squares_MN, 0, None, out=squares_MN)
    return squares_MN
