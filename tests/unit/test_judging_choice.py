"""Which checkpoint is judged next: each that is due once, the newest first, whatever becomes of the others."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.judging.choice import MOST_TRIES, to_judge, why_not
from coordinator.records import Checkpoint, Weights
from diffusion_at_home.data.manifest import AutoencoderKind, Latents, LatentSpace
from tests.unit.tiny_checkpoint import DATA, tiny_spec


def checkpoint(images: int) -> Checkpoint:
    return Checkpoint(f"c-{images}", images // 10, images, Weights.EMA, 0.5, 100, "a" * 64, 1)


def exported(*images: int) -> list[Checkpoint]:
    return [checkpoint(count) for count in images]


HISTORIES = st.lists(st.integers(1, 40), max_size=12).map(lambda gaps: exported(*accumulate(gaps)))


def chosen(history: list[Checkpoint], every_images: int, **changes: object) -> list[int]:
    names = {found.name for found in history}
    given_facts = {"offered": names, "judged": set[str](), "failures": dict[str, int]()} | changes
    return [found.images for found in to_judge(history, every_images, **given_facts)]  # type: ignore[arg-type]


def test_newest_comes_first() -> None:
    assert chosen(exported(10, 20, 30), 1) == [30, 20, 10]


def test_one_is_due_for_each_multiple_that_was_passed() -> None:
    assert chosen(exported(10, 20, 30, 55, 58, 60), 20) == [60, 55, 20]


def test_none_is_due_when_it_is_off() -> None:
    assert chosen(exported(10, 20), 0) == []


@given(HISTORIES, st.integers(1, 50), st.data())
def test_what_is_deleted_or_done_makes_no_other_due(history: list[Checkpoint], every: int, data: st.DataObject) -> None:
    due = chosen(history, every)
    names = st.sets(st.sampled_from([found.name for found in history])) if history else st.just(set[str]())
    gone, judged, failing = data.draw(names), data.draw(names), data.draw(names)
    left = chosen(
        history,
        every,
        offered={found.name for found in history} - gone,
        judged=judged,
        failures=dict.fromkeys(failing, MOST_TRIES),
    )
    out = gone | judged | failing
    assert left == [images for images in due if f"c-{images}" not in out]


@given(HISTORIES, st.integers(1, 50))
def test_judging_one_after_the_other_comes_to_an_end(history: list[Checkpoint], every: int) -> None:
    judged = set[str]()
    for _ in history:
        left = to_judge(history, every, offered={c.name for c in history}, judged=judged, failures={})
        judged |= {left[0].name} if left else set()
    assert chosen(history, every, judged=judged) == []


@pytest.mark.parametrize("tries", range(MOST_TRIES))
def test_one_that_failed_is_tried_again_so_many_times(tries: int) -> None:
    assert chosen(exported(10), 1, failures={"c-10": tries}) == [10]
    assert chosen(exported(10), 1, failures={"c-10": MOST_TRIES}) == []


def test_judging_is_off_with_a_reason_or_on() -> None:
    assert why_not(tiny_spec(), has_pictures=False) == "judging.every_images is 0"
    spec = tiny_spec("judging.every_images=1")
    assert why_not(spec, has_pictures=False) == ""
    space = LatentSpace(
        kind=AutoencoderKind.KL, autoencoder="a" * 64, channels=4, factor=2, scaling_factor=1.0, shift_factor=0.0
    )
    in_latents = spec.model_copy(
        update={"data": DATA.model_copy(update={"latents": Latents(space=space, pictures="b" * 64)})}
    )
    assert "judging.data names no pictures" in why_not(in_latents, has_pictures=False)
    assert why_not(in_latents, has_pictures=True) == ""
