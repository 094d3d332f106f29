"""From deltas to the outer step."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_at_home.config.run import Codec, OuterKind, OuterSection
from diffusion_at_home.config.trust import AggregationRule, AggregationSection
from diffusion_at_home.outer.aggregation import Aggregate, TrimmedMean, Weighed, WeightedMean, aggregate
from diffusion_at_home.outer.schedule import learning_rate
from diffusion_at_home.outer.step import num_moments, outer_step
from diffusion_at_home.wire.vector import CHUNK_ELEMENTS, VectorReader, encode_chunks, write_vector
from tests.unit.tiny_run import tiny_config

NUM_ELEMENTS = 2 * CHUNK_ELEMENTS + 300  # three chunks, the last one short


def noise(seed: int, num_elements: int = NUM_ELEMENTS) -> Tensor:
    return torch.randn(num_elements, generator=torch.Generator().manual_seed(seed))


def reader(vector: Tensor, codec: Codec = Codec.FP32) -> VectorReader:
    out = io.BytesIO()
    write_vector(out, codec, len(vector), encode_chunks(codec, vector))
    return VectorReader(memoryview(out.getvalue()), codec, len(vector))


def mean(deltas: Sequence[VectorReader], weights: Sequence[float]) -> Tensor:
    return whole(WeightedMean([Weighed(delta, weight) for delta, weight in zip(deltas, weights, strict=True)]))


def whole(chunked: VectorReader | Aggregate) -> Tensor:
    return torch.cat([chunked.chunk(index) for index in range(len(chunked))])


@pytest.mark.parametrize("codec", list(Codec))
def test_mean_is_the_naive_weighted_mean_and_repeats_bit_for_bit(codec: Codec) -> None:
    deltas, weights = [reader(noise(seed), codec) for seed in range(3)], [640, 32, 300]
    naive = np.average([whole(delta).double().numpy() for delta in deltas], axis=0, weights=weights)
    means = [mean(deltas, weights) for _ in range(2)]
    assert np.allclose(means[0].numpy(), naive, rtol=0, atol=1e-6)
    assert torch.equal(means[0], means[1])


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("trimmed", [0, 1, 2])
def test_trimmed_mean_is_the_naive_one_of_each_element(codec: Codec, trimmed: int) -> None:
    deltas, scales = [reader(noise(seed), codec) for seed in range(5)], [1.0, 0.5, 1.0, 0.25, 1.0]
    given = [Weighed(delta, 1.0, scale) for delta, scale in zip(deltas, scales, strict=True)]
    values = np.sort([scale * whole(delta).numpy() for delta, scale in zip(deltas, scales, strict=True)], axis=0)
    naive = values[trimmed : 5 - trimmed].astype(np.float64).mean(axis=0)
    assert np.allclose(whole(TrimmedMean(given, trimmed)).numpy(), naive, rtol=0, atol=1e-6)


def test_each_rule_is_the_kernel_that_the_config_names() -> None:
    given = [
        Weighed(reader(torch.full((4,), value)), weight) for value, weight in [(1.0, 1), (2.0, 1), (3.0, 1), (100.0, 7)]
    ]
    found = {
        rule: float(whole(aggregate(AggregationSection(rule=rule, trim=0.25), given))[0]) for rule in AggregationRule
    }
    mean = pytest.approx((1 + 2 + 3 + 700) / 10)
    assert found == {"mean": mean, "centered_clip": mean, "trimmed_mean": 2.5, "median": 2.5}


def test_mean_of_scaled_deltas_is_divided_by_whole_weights() -> None:
    given = [Weighed(reader(torch.ones(4)), 3.0, 0.5), Weighed(reader(torch.ones(4)), 1.0)]
    assert torch.allclose(whole(WeightedMean(given)), torch.full((4,), 2.5 / 4))


@pytest.mark.parametrize("codec", list(Codec))
def test_mean_is_that_of_the_decoded_deltas_bit_for_bit(codec: Codec) -> None:
    deltas, weights = [noise(seed) for seed in range(3)], [1e-30, 32.0, 300.0]
    deltas[0] *= 1e-20  # its share of the mean rounds to 0.0 and -0.0
    encoded = [reader(delta, codec) for delta in deltas]
    decoded = [reader(whole(delta)) for delta in encoded]
    means = [mean(readers, weights) for readers in (encoded, decoded)]
    assert means[0].numpy().tobytes() == means[1].numpy().tobytes()


def test_mean_of_one_is_itself_and_equal_deltas_keep_their_value() -> None:
    delta = noise(0)
    assert torch.equal(mean([reader(delta)], [7]), delta)
    assert torch.equal(mean([reader(delta)] * 4, [5] * 4), delta)


TORCH_TWIN: dict[OuterKind, Callable[[Tensor], torch.optim.Optimizer]] = {
    OuterKind.SGD: lambda weights: torch.optim.SGD([weights], lr=0.7),
    OuterKind.NESTEROV: lambda weights: torch.optim.SGD([weights], lr=0.7, momentum=0.9, nesterov=True),
    OuterKind.ADAMW: lambda weights: torch.optim.AdamW([weights], lr=0.7, betas=(0.9, 0.99), weight_decay=0.1),
}


@pytest.mark.parametrize("kind", list(OuterKind))
def test_steps_in_chunks_equal_torch_on_the_whole_vector(kind: OuterKind) -> None:
    section = OuterSection(optimizer=kind, learning_rate=0.7, momentum=0.9, beta2=0.99, weight_decay=0.1)
    ours, theirs = noise(0), noise(0)
    moments = [torch.zeros(NUM_ELEMENTS) for _ in range(num_moments(kind))]
    twin = TORCH_TWIN[kind](theirs)
    for step in range(4):
        delta = noise(step + 1)
        for chunk, part, *state in zip(*(torch.split(v, CHUNK_ELEMENTS) for v in (delta, ours, *moments)), strict=True):
            outer_step(section, part, state, step, chunk)
        theirs.grad = delta.clone()
        twin.step()
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)


def test_plain_averaging_lands_on_the_mean_of_the_trained_weights() -> None:
    base, trained = noise(0), [noise(1), noise(2)]
    mean_delta = mean([reader(base - weights) for weights in trained], [1, 1])
    outer_step(OuterSection(optimizer=OuterKind.SGD, learning_rate=1.0), base, [], 0, mean_delta)
    assert torch.allclose(base, (trained[0] + trained[1]) / 2, atol=1e-6)


def test_rate_warms_up_stays_and_falls_along_half_a_cosine() -> None:
    config = tiny_config("schedule.warmup_images=100", "schedule.decay_images=400", "schedule.final_share=0.2")
    peak = config.inner.learning_rate
    assert learning_rate(config, 50) == pytest.approx(peak / 2)
    assert 0 < learning_rate(config, 0) <= peak / 100
    assert learning_rate(config, 100) == learning_rate(config, 600) == peak
    assert learning_rate(config, 700) == pytest.approx(peak * (0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi / 4))))
    assert learning_rate(config, 1000) == learning_rate(config, 1200) == pytest.approx(0.2 * peak)


def test_rate_without_a_schedule_is_the_peak_for_ever() -> None:
    config = tiny_config()
    assert {learning_rate(config, images) for images in (0, 1, 999, 1000, 5000)} == {config.inner.learning_rate}
