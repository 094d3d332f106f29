from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm  # type: ignore[import-untyped]

from diffusion_at_home.evaluation.distances import (
    Floats,
    Gaussian,
    frechet,
    frechet_distance,
    kernel_distance,
    spread,
)


def features(seed: int, count: int = 50) -> Floats:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, 8)) @ generator.normal(size=(8, 8)) + seed


def rotation(seed: int) -> Floats:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(8, 8)))[0]


def test_frechet_distance_is_the_formula_with_a_general_matrix_root() -> None:
    a, b = Gaussian.fit(features(1)), Gaussian.fit(features(2))
    root = sqrtm(a.covariance @ b.covariance).real
    naive = np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(naive)
    assert frechet_distance(b, a) == pytest.approx(naive)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_gaussians_with_common_axes_is_the_closed_form() -> None:
    left, right = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 0.0])  # variances; one has no width at all
    a, b = Gaussian(np.zeros(3), np.diag(left)), Gaussian(np.array([3.0, 0.0, 0.0]), np.diag(right))
    assert frechet_distance(a, b) == pytest.approx(9 + np.square(np.sqrt(left) - np.sqrt(right)).sum())


def test_frechet_distance_of_fewer_pictures_than_features_is_finite_and_zero_to_themselves() -> None:
    few = features(1, count=5)
    assert frechet(few, few) == pytest.approx(0, abs=1e-6)
    assert frechet(few, features(2)) > 0


def naive_kernel_distance(x: Floats, y: Floats) -> float:
    def k(a: Floats, b: Floats) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    xx = [k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    yy = [k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    return float(np.mean(xx) + np.mean(yy) - 2 * np.mean([k(a, b) for a in x for b in y]))


def test_kernel_distance_is_the_sums_over_pairs() -> None:
    x, y = features(1, count=7), features(2, count=9)
    assert kernel_distance(x, y) == pytest.approx(naive_kernel_distance(x, y))
    assert kernel_distance(y, x) == pytest.approx(kernel_distance(x, y))


def test_kernel_distance_of_one_distribution_is_zero_on_average_however_few_pictures() -> None:
    generator = np.random.default_rng(0)
    found = [kernel_distance(generator.normal(size=(6, 4)), generator.normal(size=(8, 4))) for _ in range(2000)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))
    biased = [frechet(generator.normal(size=(6, 4)), generator.normal(size=(8, 4))) for _ in range(100)]
    assert np.mean(biased) > 1  # which is why figures of unequal numbers are never compared


@pytest.mark.parametrize("distance", [frechet, kernel_distance])
def test_distances_do_not_depend_on_the_order_of_pictures_or_a_rotation_of_the_features(distance: object) -> None:
    assert callable(distance)
    x, y = features(1), features(2, count=60)
    turned = rotation(3)
    assert distance(x[::-1], y) == pytest.approx(distance(x, y))
    assert distance(x @ turned, y @ turned) == pytest.approx(distance(x, y))


def test_spread_is_what_halves_of_the_pictures_differ_by() -> None:
    x, y = features(1), features(1, count=60)
    assert spread(x, y, frechet, subsets=5, seed=0) == spread(x, y, frechet, subsets=5, seed=0) > 0
    assert spread(np.repeat(x[:1], 20, axis=0), y, kernel_distance, subsets=5, seed=0) == pytest.approx(0, abs=1e-6)
