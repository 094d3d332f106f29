"""Who of a round counts, and how much: each attack with the screening on, and off, where it counts like anything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from coordinator.records import Fault, Verdict
from coordinator.verdicts import Given, Rules, decide
from diffusion_at_home.config.run import Codec
from diffusion_at_home.config.trust import AggregationRule, AggregationSection, ScreeningSection
from tests.unit.deltas import given, honest, noise

ON = Rules(ScreeningSection(), AggregationSection())
OFF = Rules(ScreeningSection(enabled=False), AggregationSection(clip=0.0))
ATTACKERS = (1, 5)
"""Two of eight."""

Attack = Callable[[list[Tensor], int], Tensor]


def faults(verdicts: Sequence[Verdict]) -> dict[int, Fault]:
    """Places of those that do not count, and why."""
    return {int(v.lease_id) - 1: v.fault for v in verdicts if v.fault is not Fault.NONE}


def attacked(attack: Attack, **kwargs: float) -> list[Tensor]:
    deltas = honest(8, **kwargs)
    return [attack(deltas, index) if index in ATTACKERS else delta for index, delta in enumerate(deltas)]


ATTACKS: dict[str, tuple[Attack, Fault]] = {
    "sign flip": (lambda deltas, index: -deltas[index], Fault.OPPOSED),
    "sign flip x 3": (lambda deltas, index: -3 * deltas[index], Fault.OPPOSED),
    "sign flip x 10": (lambda deltas, index: -10 * deltas[index], Fault.OUTLIER),
    "noise": (lambda _, index: 0.01 * noise(100 + index), Fault.OPPOSED),
    "x 1e6": (lambda deltas, index: 1e6 * deltas[index], Fault.OUTLIER),
    "x 1e-6": (lambda deltas, index: 1e-6 * deltas[index], Fault.OUTLIER),
    "zeros": (lambda deltas, index: 0 * deltas[index], Fault.UNCHANGED),
    "inner product": (lambda deltas, _: -0.5 * torch.stack(deltas).mean(dim=0), Fault.OPPOSED),
    "copy of another's, disguised": (lambda deltas, index: deltas[3] + 0.001 * noise(100 + index), Fault.COPIED),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attackers_are_left_out_by_name_and_nobody_else(name: str) -> None:
    attack, fault = ATTACKS[name]
    found = faults(decide(given(attacked(attack)), ON))
    if fault is Fault.COPIED:  # whoever of the copies came first is taken for the one
        assert set(found.values()) == {Fault.COPIED}
        assert len(found) == 2
        assert set(found) <= {1, 3, 5}
    else:  # two that hand in the same are copies, too
        assert set(found) == set(ATTACKERS)
        assert fault in set(found.values()) <= {fault, Fault.COPIED}


@pytest.mark.parametrize("name", ATTACKS)
def test_attackers_count_where_nobody_screens(name: str) -> None:
    verdicts = decide(given(attacked(ATTACKS[name][0])), OFF)
    assert faults(verdicts) == {}
    assert {(v.weight, v.scale) for v in verdicts} == {(64.0, 1.0)}


@pytest.mark.parametrize("cosine", [0.7, 0.3, 0.15, 0.05])
@pytest.mark.parametrize("codec", [Codec.FP32, Codec.INT4, Codec.SPARSE])
def test_honest_rounds_count_whole(cosine: float, codec: Codec) -> None:
    images = [32, 64, 64, 128, 256, 64, 64, 32]
    deltas = [delta * (count / 64) ** 0.6 for delta, count in zip(honest(8, cosine=cosine), images, strict=True)]
    verdicts = decide(given(deltas, images=images, codec=codec), ON)
    assert faults(verdicts) == {}
    assert [(v.weight, v.scale) for v in verdicts] == [(float(count), 1.0) for count in images]


def test_seven_of_sixteen_that_collude_are_left_out() -> None:
    deltas = honest(16)
    against = -torch.stack(deltas[7:]).mean(dim=0)
    deltas[:7] = [against + 0.01 * noise(200 + index) for index in range(7)]
    assert set(faults(decide(given(deltas), ON))) == set(range(7))


def test_the_same_bytes_as_before_are_a_copy_whosever_they_were() -> None:
    assert faults(decide(given(honest(8), copies=[2]), ON)) == {2: Fault.COPIED}


def test_one_worker_with_many_leases_does_not_tell_how_long_a_delta_is() -> None:
    deltas = honest(8)
    deltas[4:] = [8 * delta for delta in deltas[4:]]
    workers = [0, 1, 2, 3, 9, 9, 9, 9]
    assert faults(decide(given(deltas, workers=workers), ON)) == dict.fromkeys(range(4, 8), Fault.OUTLIER)


def test_of_few_workers_nobody_can_say_who_is_the_odd_one() -> None:
    deltas = honest(3)
    assert faults(decide(given([-deltas[0], *deltas[1:]]), ON)) == {}
    assert faults(decide(given([0 * deltas[0], *deltas[1:]]), ON)) == {0: Fault.UNCHANGED}


def test_a_round_is_never_left_without_anything() -> None:
    assert faults(decide(given([torch.zeros(1000)] * 5), ON)) == {}
    assert decide([], ON) == []


# -- weights and scales -------------------------------------------------------------------------------------------


def share(verdicts: Sequence[Verdict], places: Sequence[int]) -> float:
    return sum(verdicts[index].weight for index in places) / sum(v.weight for v in verdicts)


@pytest.mark.parametrize("newcomers", [(0,), (0, 1, 2), (0, 1, 2, 3, 4, 5, 6)])
def test_newcomers_have_at_most_their_share_together(newcomers: tuple[int, ...]) -> None:
    verdicts = decide(given(honest(8), newcomers=newcomers), ON)
    assert share(verdicts, newcomers) == pytest.approx(min(len(newcomers) / 8, 0.2))
    assert {v.weight for index, v in enumerate(verdicts) if index not in newcomers} == {64.0}


def test_where_all_are_newcomers_all_count() -> None:
    verdicts = decide(given(honest(8), newcomers=range(8)), ON)
    assert {v.weight for v in verdicts} == {64.0}


def clipped(deltas: Sequence[Tensor], rules: Rules) -> list[float]:
    found: list[Given] = given(deltas)
    return [float(v.scale * one.sketch.norm) for v, one in zip(decide(found, rules), found, strict=True)]


def test_long_deltas_are_clipped_to_a_multiple_of_the_median() -> None:
    deltas = honest(8)
    deltas[0] = 3 * deltas[0]
    lengths = clipped(deltas, ON)
    median = sorted(lengths[1:])[3]
    assert lengths[0] == pytest.approx(1.5 * median, rel=0.02)
    assert lengths[1:] == pytest.approx([float(delta.norm()) for delta in deltas[1:]], rel=1e-6)


def test_centered_clipping_is_the_naive_one() -> None:
    """Karimireddy, He and Jaggi 2021, algorithm 2, on the vectors themselves, from the mean of what is clipped by length."""
    deltas = honest(8)
    deltas[1], deltas[5] = deltas[1] + 0.02 * noise(50), 2.5 * deltas[5]
    rules = Rules(ScreeningSection(enabled=False), AggregationSection(rule=AggregationRule.CENTERED_CLIP, clip=1.5))
    verdicts = decide(given(deltas), rules)
    ours = sum(v.scale * delta.double() for v, delta in zip(verdicts, deltas, strict=True)) / len(deltas)
    doubles = [delta.double() for delta in deltas]
    bound = 1.5 * float(torch.stack([delta.norm() for delta in doubles]).quantile(0.5))
    center = sum(delta * min(1.0, bound / float(delta.norm())) for delta in doubles) / len(doubles)
    for _ in range(3):
        distances = torch.stack([(delta - center).norm() for delta in doubles])
        radius = distances.quantile(0.5)
        center = center + sum(
            (delta - center) * min(1.0, float(radius / distance))
            for delta, distance in zip(doubles, distances, strict=True)
        ) / len(doubles)
    assert isinstance(ours, Tensor)
    assert isinstance(center, Tensor)
    assert float((ours - center).norm() / center.norm()) < 0.02  # distances are those of sketches


# -- cosines ------------------------------------------------------------------------------------------------------


def test_cosines_are_those_to_the_sum_of_the_other_workers_deltas() -> None:
    """The naive ones, on the vectors themselves: all of one length an image, a worker's own left out."""
    deltas, images, workers = honest(6), [32, 64, 64, 128, 64, 96], [0, 1, 1, 2, 3, 0]
    verdicts = decide(given(deltas, images=images, workers=workers), ON)
    directions = [delta.double() / delta.double().norm() for delta in deltas]
    for index, verdict in enumerate(verdicts):
        others = [h for h in range(6) if workers[h] != workers[index]]
        total = torch.stack([images[h] * directions[h] for h in others]).sum(dim=0)
        assert verdict.cosine == pytest.approx(float(directions[index] @ total / total.norm()), abs=0.02)


def test_of_one_worker_there_are_no_others() -> None:
    verdicts = decide(given(honest(2), workers=[4, 4]), ON)
    assert [verdict.cosine for verdict in verdicts] == [None, None]
