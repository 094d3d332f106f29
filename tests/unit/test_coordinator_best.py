"""What is offered as the best is never worse than what was offered before, whatever retention lets go meanwhile."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from coordinator.best import best_of
from coordinator.retention import Holdings, KeptCheckpoint, plan

LOSSES = st.lists(st.one_of(st.floats(0.1, 2.0), st.sampled_from([0.5, math.nan, math.inf])), max_size=20)


def loss_of(checkpoint: KeptCheckpoint | None) -> float:
    return checkpoint.held_out_loss if checkpoint and math.isfinite(checkpoint.held_out_loss) else math.inf


def thinned(checkpoints: Sequence[KeptCheckpoint], quota: int) -> list[KeptCheckpoint]:
    """What a run of nothing but checkpoints keeps within `quota` bytes."""
    holdings = Holdings(sum(c.size_bytes for c in checkpoints), 9, 9, 0, 0, 0, 9, checkpoints=checkpoints)
    gone = plan(holdings, quota, may_save=False).checkpoints
    return [checkpoint for checkpoint in checkpoints if checkpoint.name not in gone]


@given(LOSSES, st.integers(0, 60))
def test_best_never_gets_worse(losses: Sequence[float], quota: int) -> None:
    offered, before = list[KeptCheckpoint](), math.inf
    for number, loss in enumerate(losses):
        offered = thinned([*offered, KeptCheckpoint(f"c-{number}", 10 + number, 10, loss)], quota)
        now = loss_of(best_of(offered))
        assert now <= before
        assert now <= loss or not math.isfinite(loss)
        before = now


def test_a_run_that_gets_worse_again_keeps_offering_its_best() -> None:
    offered = list[KeptCheckpoint]()
    for number, loss in enumerate((1.0, 0.4, 0.6, 0.9, math.inf, 0.8)):
        offered = thinned([*offered, KeptCheckpoint(f"c-{number}", 10 + number, 10, loss)], 1)
    best = best_of(offered)
    assert best is not None
    assert best.name == "c-1"
    assert [checkpoint.name for checkpoint in offered] == ["c-0", "c-1", "c-5"]


def test_of_equals_the_newest_is_the_best_and_what_is_not_finite_only_if_nothing_else_is_there() -> None:
    broken = KeptCheckpoint("broken", 1, 10, math.nan)
    one, other = (KeptCheckpoint(name, 2, 10, 0.5) for name in ("one", "other"))
    assert best_of([one, other]) is other
    assert best_of([broken, one]) is one
    assert best_of([one, broken]) is one
    assert best_of([broken]) is broken
    assert best_of([]) is None
