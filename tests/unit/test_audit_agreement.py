"""What an auditor compares: direction and length, and what it takes for rounding."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_at_home.audit.agreement import Agreement, Tolerance, agreement
from diffusion_at_home.audit.tolerances import tolerances
from diffusion_at_home.config.run import Codec
from tests.unit.deltas import noise

TOLERANCE = Tolerance(least_cosine=0.9, most_stretch=1.25)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 1000))
def test_chunks_compare_as_the_whole_does(num_elements: int, chunk: int, seed: int) -> None:
    c, r = noise(seed, num_elements), noise(seed + 1, num_elements)
    whole = agreement([(c, r)])
    parts = agreement(zip(torch.split(c, chunk), torch.split(r, chunk), strict=True))
    assert parts.cosine == pytest.approx(whole.cosine, abs=1e-12)
    assert whole.length_ratio == pytest.approx(float(c.double().norm() / r.double().norm()))
    assert whole.relative_error == pytest.approx(float((c.double() - r.double()).norm() / r.double().norm()), abs=1e-6)


def test_the_same_numbers_are_exact_and_allowed_whatever_they_are() -> None:
    for x in (noise(0), torch.zeros(5)):
        found = agreement([(x, x.clone())])
        assert found.exact
        assert found.relative_error == 0.0
        assert TOLERANCE.allows(found)


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.7, 1.5, 1e6, math.inf, math.nan])
def test_other_lengths_directions_and_what_is_no_number_are_not_allowed(scale: float) -> None:
    assert not TOLERANCE.allows(agreement([(scale * noise(0), noise(0))]))
    assert not TOLERANCE.allows(agreement([(noise(0), torch.zeros_like(noise(0)))]))


def test_a_little_of_something_else_is_allowed() -> None:
    assert TOLERANCE.allows(agreement([(1.2 * noise(0) + 0.1 * noise(1), noise(0))]))
    assert TOLERANCE.allows(Agreement(cosine=0.9, length_ratio=0.8, exact=False))
    assert not TOLERANCE.allows(Agreement(cosine=0.899, length_ratio=1.0, exact=False))


@pytest.mark.parametrize("codec", list(Codec))
def test_what_exact_weights_are_allowed_everybody_is(codec: Codec) -> None:
    allowed = tolerances(codec)
    assert 0.5 < allowed.loose.least_cosine <= allowed.close.least_cosine < 1
    assert 1 < allowed.close.most_stretch <= allowed.loose.most_stretch < 1.5


def test_small_rates_and_few_steps_are_allowed_more_noise_and_still_no_other_direction() -> None:
    usual = tolerances(Codec.INT8).loose
    for noisier in (tolerances(Codec.INT8, 1e-4).loose, tolerances(Codec.INT8, 1e-3, num_full_steps=0.2).loose):
        assert 0.4 < noisier.least_cosine < usual.least_cosine
        assert usual.most_stretch < noisier.most_stretch < 2.5
    assert tolerances(Codec.INT8, 3e-3, num_full_steps=100).loose.least_cosine == pytest.approx(usual.least_cosine)
    assert tolerances(Codec.INT8, 0.0, num_full_steps=0.0).loose.least_cosine >= 0
    assert tolerances(Codec.INT8, 1e-5, num_full_steps=0.2).close == tolerances(Codec.INT8).close
