"""What goes when a run outgrows its quota: never what is needed, no more than must, and always in the same order."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.retention import Holdings, KeptCheckpoint, Plan, must_keep, plan

SIZES = st.integers(min_value=1, max_value=50)


@st.composite
def holdings(draw: st.DrawFn) -> Holdings:
    """Anything that a run may have on its disk."""
    newest = draw(st.integers(0, 12))
    saved = draw(st.integers(0, newest))
    anchor = draw(st.integers(0, max(saved - 1, 0)))
    snapshot = draw(st.integers(0, newest))
    updates_since = draw(st.integers(0, snapshot))
    older = draw(st.sets(st.integers(anchor, saved), max_size=2)) - {saved}
    losses = st.one_of(st.floats(0.1, 2.0), st.sampled_from([math.nan, math.inf]))
    checkpoints = [
        KeptCheckpoint(f"c-{index}", images, draw(SIZES), draw(losses))
        for index, images in enumerate(sorted(draw(st.sets(st.integers(1, 10_000), max_size=12))))
    ]
    found = Holdings(
        total_bytes=0,
        newest=newest,
        saved=saved,
        state_bytes=draw(SIZES),
        anchor=anchor,
        anchor_bytes=draw(SIZES) if anchor else 0,
        oldest_snapshot=snapshot,
        damaged={f"d-{index}": draw(SIZES) for index in range(draw(st.integers(0, 2)))},
        updates={version: draw(SIZES) for version in range(updates_since + 1, newest + 1)},
        states={version: draw(SIZES) for version in older},
        contributions={number: draw(SIZES) for number in range(anchor + 1, newest + 2) if draw(st.booleans())},
        checkpoints=checkpoints,
    )
    return replace(found, total_bytes=spare_bytes(found) + draw(st.integers(1, 100)))


def spare_bytes(found: Holdings) -> int:
    """Of everything that is counted one by one."""
    parts = (found.damaged, found.updates, found.states, found.contributions)
    sizes = sum(sum(part.values()) for part in parts)
    return sizes + found.anchor_bytes + sum(checkpoint.size_bytes for checkpoint in found.checkpoints)


def after(found: Holdings, decided: Plan) -> Holdings:
    """What there is once `decided` has been done."""
    anchor = found.anchor if decided.anchor is None else decided.anchor
    left = replace(
        found,
        anchor=anchor,
        anchor_bytes=found.anchor_bytes if decided.anchor is None else found.states[anchor],
        damaged={name: size for name, size in found.damaged.items() if name not in decided.damaged},
        updates={version: size for version, size in found.updates.items() if version > decided.updates_upto},
        states={v: size for v, size in found.states.items() if v not in decided.states and v != decided.anchor},
        contributions={number: size for number, size in found.contributions.items() if number > anchor},
        checkpoints=[checkpoint for checkpoint in found.checkpoints if checkpoint.name not in decided.checkpoints],
    )
    return replace(left, total_bytes=found.total_bytes - spare_bytes(found) + spare_bytes(left))


@given(holdings(), st.integers(1, 400), st.booleans())
def test_what_is_needed_stays_whatever_the_quota(found: Holdings, quota: int, may_save: bool) -> None:
    decided = plan(found, quota, may_save=may_save)
    assert decided.updates_upto <= found.oldest_snapshot
    assert decided.anchor is None or found.anchor < decided.anchor < found.saved
    assert decided.anchor is None or decided.anchor in found.states
    assert decided.anchor not in decided.states
    assert found.saved not in decided.states
    assert not must_keep(found.checkpoints) & set(decided.checkpoints)


@given(holdings(), st.integers(1, 400), st.booleans())
def test_it_says_exactly_how_much_is_left_above_the_quota(found: Holdings, quota: int, may_save: bool) -> None:
    decided = plan(found, quota, may_save=may_save)
    assert decided.over_bytes == max(after(found, decided).total_bytes - quota, 0)


@given(holdings(), st.integers(1, 400))
def test_it_stops_short_of_the_quota_only_when_nothing_else_may_go(found: Holdings, quota: int) -> None:
    decided = plan(found, quota, may_save=False)
    if decided.over_bytes:
        left = after(found, decided)
        assert not left.damaged
        assert all(version > left.oldest_snapshot for version in left.updates)
        assert {checkpoint.name for checkpoint in left.checkpoints} == must_keep(left.checkpoints)
        assert all(number > left.anchor for number in left.contributions)
        assert not any(left.anchor < version < left.saved for version in left.states)


@given(holdings(), st.integers(1, 400))
def test_doing_it_twice_is_doing_it_once(found: Holdings, quota: int) -> None:
    decided = plan(found, quota, may_save=False)
    assert plan(after(found, decided), quota, may_save=False) == Plan(over_bytes=decided.over_bytes)


@given(holdings(), st.integers(0, 400))
def test_nothing_goes_below_the_quota_or_without_one(found: Holdings, spare: int) -> None:
    assert plan(found, found.total_bytes + spare, may_save=True) == Plan()
    assert plan(found, 0, may_save=True) == Plan()


@given(holdings(), st.integers(1, 400))
def test_what_is_worth_more_goes_only_when_what_is_worth_less_was_not_enough(found: Holdings, quota: int) -> None:
    decided = plan(found, quota, may_save=False)
    if decided.checkpoints:
        assert plan(replace(found, checkpoints=()), quota, may_save=False).over_bytes > 0
    if decided.anchor is not None:
        cheaper = sum(found.damaged.values()) + sum(
            size for version, size in found.updates.items() if version <= found.oldest_snapshot
        )
        assert found.total_bytes - cheaper - sum(found.states.values()) > quota
    if decided.updates_upto:
        assert found.total_bytes - sum(found.damaged.values()) > quota


@given(holdings(), st.integers(1, 400))
def test_no_checkpoint_goes_while_saving_would_let_contributions_go(found: Holdings, quota: int) -> None:
    decided = plan(found, quota, may_save=True)
    held = sum(after(found, decided).contributions.values())
    if decided.waits:
        assert decided.checkpoints == ()
        assert decided.over_bytes > 0
        assert held > found.state_bytes if decided.wants_save else held >= decided.over_bytes
    elif decided.over_bytes:
        assert decided.over_bytes == plan(found, quota, may_save=False).over_bytes > 0


def run_of(checkpoints: int) -> Holdings:
    """Checkpoints of 10 bytes, at equal distances in images."""
    found = [KeptCheckpoint(f"c-{n}", 1000 * n, 10, 2.0 - 0.001 * n) for n in range(1, checkpoints + 1)]
    return Holdings(10 * checkpoints, 9, 9, 0, 0, 0, 9, checkpoints=found)


@pytest.mark.parametrize(("checkpoints", "kept"), [(20, 8), (100, 8), (400, 12)])
def test_thinned_history_is_roughly_even_on_a_log_scale(checkpoints: int, kept: int) -> None:
    found = run_of(checkpoints)
    gone = plan(found, 10 * kept, may_save=False).checkpoints
    left = [checkpoint.images for checkpoint in found.checkpoints if checkpoint.name not in gone]
    assert len(left) == kept
    gaps = [math.log(later / earlier) for earlier, later in pairwise(left)]
    even = math.log(checkpoints) / (kept - 1)
    assert max(gaps) < 2 * even  # the first two lie log 2 apart, which no thinning changes
    assert min(gaps) > even / 4


def test_state_that_weighs_more_than_the_contributions_it_would_replace_goes_instead() -> None:
    found = Holdings(
        total_bytes=1000,
        newest=9,
        saved=8,
        state_bytes=10,
        anchor=0,
        anchor_bytes=0,
        oldest_snapshot=0,
        states={5: 100},
        contributions={3: 60},
    )
    assert plan(found, 100, may_save=False) == Plan(states=(5,), over_bytes=800)
    assert plan(replace(found, contributions={3: 160}), 100, may_save=False) == Plan(anchor=5, over_bytes=740)


def test_the_best_stays_wherever_it_lies() -> None:
    found = run_of(10)
    checkpoints = [replace(c, held_out_loss=0.1) if c.name == "c-4" else c for c in found.checkpoints]
    gone = plan(replace(found, checkpoints=checkpoints), 1, may_save=False).checkpoints
    assert sorted(c.name for c in checkpoints if c.name not in gone) == ["c-1", "c-10", "c-4"]


def test_anchor_moves_no_further_than_is_needed() -> None:
    found = Holdings(
        total_bytes=1000,
        newest=9,
        saved=8,
        state_bytes=10,
        anchor=0,
        anchor_bytes=0,
        oldest_snapshot=0,
        states={2: 10, 5: 10},
        contributions=dict.fromkeys(range(1, 10), 50),
    )
    assert plan(found, 985, may_save=True) == Plan(states=(2, 5))
    assert plan(found, 900, may_save=True) == Plan(anchor=2, states=(5,))
    assert plan(found, 890, may_save=True) == Plan(anchor=2, states=(5,))
    assert plan(found, 800, may_save=True) == Plan(anchor=5, states=(2,))
    assert plan(found, 700, may_save=True).wants_save
