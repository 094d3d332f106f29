"""Buckets are NovelAI's, and a picture goes to the nearest shape."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_at_home.data.buckets import bucket_sizes, nearest_bucket, stretch
from diffusion_at_home.data.manifest import Size
from diffusion_at_home.errors import ConfigError


def naive_buckets(base: int, step: int, min_side: int, max_side: int) -> set[Size]:
    """The rule word by word: the highest of every width, mirrored, and the square."""
    fitting = {
        (width, height)
        for width in range(1, max_side + 1)
        for height in range(1, max_side + 1)
        if width % step == height % step == 0 and min(width, height) >= min_side and width * height <= base**2
    }
    highest = {(width, max(h for w, h in fitting if w == width)) for width in {w for w, _ in fitting}}
    return highest | {size[::-1] for size in highest} | {(base, base)}


@given(st.integers(1, 4), st.integers(1, 8), st.integers(0, 12), st.integers(0, 20))
def test_buckets_are_those_of_the_naive_rule(step: int, steps: int, below: int, above: int) -> None:
    base = step * steps
    min_side, max_side = max(0, base - below), base + above
    sizes = bucket_sizes(base, step, min_side, max_side)
    assert set(sizes) == naive_buckets(base, step, min_side, max_side)
    assert list(sizes) == sorted(set(sizes))


def test_every_bucket_is_a_batch_of_about_the_same_cost() -> None:
    sizes = bucket_sizes(512, 64, 256, 1024)
    assert (512, 512) in sizes
    assert (256, 1024) in sizes
    assert (640, 384) in sizes
    assert all((height, width) in sizes for width, height in sizes)
    assert all(width % 64 == height % 64 == 0 and 256 <= width <= 1024 for width, height in sizes)
    assert all(512**2 * 0.8 < width * height <= 512**2 for width, height in sizes)


def test_a_square_alone_is_one_bucket() -> None:
    assert bucket_sizes(8, 8, 8, 8) == ((8, 8),)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((500, 64, 256, 1024), "the base side 500 is no multiple of the step 64"),
        ((512, 0, 256, 1024), "the base side 512 is no multiple of the step 0"),
        ((512, 64, 576, 1024), "the base side 512 is not between the shortest side 576 and the longest 1024"),
        ((512, 64, 64, 448), "the base side 512 is not between the shortest side 64 and the longest 448"),
    ],
)
def test_settings_without_the_square_are_refused(settings: tuple[int, int, int, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        bucket_sizes(*settings)


SIDES = st.integers(1, 5000)


@given(SIDES, SIDES, st.sampled_from([(512, 64, 256, 1024), (32, 8, 16, 64), (16, 8, 8, 32)]))
def test_the_nearest_bucket_is_that_of_least_difference_in_log_aspect(
    width: int, height: int, settings: tuple[int, int, int, int]
) -> None:
    sizes = bucket_sizes(*settings)
    found = nearest_bucket((width, height), sizes, max_stretch=math.inf)
    assert found is not None
    differences = {size: abs(math.log(width / height) - math.log(size[0] / size[1])) for size in sizes}
    assert math.isclose(differences[found], min(differences.values()), abs_tol=1e-12)
    assert math.isclose(stretch((width, height), found), math.exp(differences[found]), rel_tol=1e-12)


@given(SIDES, SIDES, st.floats(1, 5))
def test_a_shape_farther_than_the_limit_has_no_bucket(width: int, height: int, max_stretch: float) -> None:
    sizes = bucket_sizes(32, 8, 16, 64)
    found = nearest_bucket((width, height), sizes, max_stretch=max_stretch)
    nearest = min(stretch((width, height), size) for size in sizes)
    assert (found is None) == (nearest > max_stretch)


def test_every_bucket_is_its_own_nearest() -> None:
    sizes = bucket_sizes(512, 64, 256, 1024)
    assert [nearest_bucket(size, sizes, max_stretch=1) for size in sizes] == list(sizes)


def test_of_equally_near_buckets_the_largest_is_taken_and_then_the_narrowest() -> None:
    assert nearest_bucket((3, 3), [(8, 8), (16, 16), (4, 4)], max_stretch=1) == (16, 16)
    assert nearest_bucket((3, 3), [(16, 8), (8, 16)], max_stretch=2) == (8, 16)
    assert nearest_bucket((3, 3), [(8, 16), (16, 8)], max_stretch=2) == (8, 16)
