"""A sketch tells how long a delta is, and how it lies to any other one, whatever structure both have."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from coordinator.sketch import COSINE_ERROR, SKETCH_SIZE, Sketcher
from diffusion_at_home.config.run import Codec
from diffusion_at_home.wire.vector import CHUNK_ELEMENTS
from tests.unit.deltas import NUM_ELEMENTS, SKETCHER, noise, reader


def cosine(left: Tensor, right: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(left.double(), right.double(), dim=0))


def sketched_cosine(left: Tensor, right: Tensor, sketcher: Sketcher = SKETCHER) -> float:
    return cosine(sketcher.sketch(reader(left)).sums, sketcher.sketch(reader(right)).sums)


def striped(seed: int) -> Tensor:
    """All of it in every 64th element: columns of a matrix that hardly anything else moves."""
    values = torch.zeros(NUM_ELEMENTS)
    values[::64] = noise(seed)[::64]
    return values


LIKENESSES = [-1.0, -0.3, 0.0, 0.02, 0.3, 0.9, 1.0]


@pytest.mark.parametrize("likeness", LIKENESSES)
def test_cosine_of_sketches_is_that_of_the_deltas_within_its_error(likeness: float) -> None:
    left = noise(1)
    right = likeness * left + (1 - likeness**2) ** 0.5 * noise(2)
    assert sketched_cosine(left, right) == pytest.approx(cosine(left, right), abs=4 * COSINE_ERROR)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (torch.ones(NUM_ELEMENTS), torch.ones(NUM_ELEMENTS)),
        (torch.ones(NUM_ELEMENTS), -torch.ones(NUM_ELEMENTS)),
        (torch.ones(NUM_ELEMENTS), noise(3)),
        (torch.arange(NUM_ELEMENTS) % 2 * 2.0 - 1, torch.ones(NUM_ELEMENTS)),
        (striped(4), striped(5)),
        (striped(4), striped(4) + 0.5 * striped(5)),
    ],
    ids=["constant", "opposite", "constant and noise", "alternating", "striped", "striped alike"],
)
def test_structure_of_the_weights_does_not_matter(left: Tensor, right: Tensor) -> None:
    # What lies in few places only meets fewer others in a sum, and there by larger parts.
    assert sketched_cosine(left, right) == pytest.approx(cosine(left, right), abs=0.05)


def test_error_over_many_keys_is_what_it_is_said_to_be() -> None:
    left, right = noise(1), noise(2)
    errors = [sketched_cosine(left, right, Sketcher(key << 40)) - cosine(left, right) for key in range(40)]
    spread = math.sqrt(sum(error**2 for error in errors) / len(errors))
    assert 0.6 * COSINE_ERROR < spread < 1.5 * COSINE_ERROR


def test_length_is_exact() -> None:
    delta = noise(1, 2 * CHUNK_ELEMENTS + 300)
    assert SKETCHER.sketch(reader(delta)).norm == pytest.approx(float(delta.double().norm()), rel=1e-12)


@pytest.mark.parametrize("codec", list(Codec))
def test_sketch_is_of_what_a_codec_decodes_to(codec: Codec) -> None:
    encoded = reader(noise(1), codec)
    decoded = torch.cat([encoded.chunk(index) for index in range(len(encoded))])
    ours, theirs = SKETCHER.sketch(encoded), SKETCHER.sketch(reader(decoded))
    assert ours.norm == theirs.norm
    assert torch.equal(ours.sums, theirs.sums)


def test_nothing_has_no_length_and_no_direction() -> None:
    sketch = SKETCHER.sketch(reader(torch.zeros(100)))
    assert sketch.norm == 0
    assert torch.equal(sketch.sums, torch.zeros(SKETCH_SIZE))


def test_other_keys_are_other_sketches() -> None:
    delta = reader(noise(1))
    assert not torch.equal(Sketcher(1).sketch(delta).sums, Sketcher(1 << 40).sketch(delta).sums)
