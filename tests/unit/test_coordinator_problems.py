"""A problem is present from when it is seen until it is gone, and a full disk until the next write succeeds."""

from __future__ import annotations

import pytest

from coordinator.metrics import Metrics
from coordinator.problems import QUOTA_EXCEEDED, STORAGE_FULL, Problems, damaged
from diffusion_at_home.errors import StorageError

FULL = StorageError("no space left: free some")


def names(problems: Problems) -> list[str]:
    return [problem.name for problem in problems.present()]


def test_problem_keeps_its_beginning_and_takes_the_newest_sentence() -> None:
    problems = Problems()
    problems.set(QUOTA_EXCEEDED, "too much")
    (before,) = problems.present()
    problems.set(QUOTA_EXCEEDED, "far too much")
    (now,) = problems.present()
    assert (now.since_ms, now.sentence) == (before.since_ms, "far too much")
    problems.clear(QUOTA_EXCEEDED)
    problems.clear(QUOTA_EXCEEDED)
    assert problems.present() == ()


def test_disk_is_full_until_what_failed_has_been_written() -> None:
    problems = Problems()
    with pytest.raises(StorageError), problems.writing("contributions"):
        raise FULL
    assert names(problems) == [STORAGE_FULL]
    with problems.writing("rounds"):
        pass
    assert names(problems) == [STORAGE_FULL]
    with problems.writing("contributions"):
        pass
    assert names(problems) == []


def test_reading_the_ledger_does_not_say_that_it_can_be_written() -> None:
    problems = Problems()
    for method in ("grant", "join"):
        with pytest.raises(StorageError), problems.writing("ledger", method):
            raise FULL
    with problems.writing("ledger", "lease"):
        pass
    assert names(problems) == [STORAGE_FULL]
    with problems.writing("ledger", "grant"):
        pass
    assert names(problems) == []


def test_other_failures_say_nothing_of_the_disk() -> None:
    problems = Problems()
    with pytest.raises(ValueError, match="else"), problems.writing("contributions"):
        raise ValueError("something else")
    assert names(problems) == []


def test_metrics_count_problems_by_kind_and_say_when_there_are_none() -> None:
    metrics = Metrics()
    metrics.problems.set(damaged("a"), "a is damaged")
    metrics.problems.set(damaged("b"), "b is damaged")
    assert b'dah_problems{kind="damaged"} 2.0' in metrics.exposition()
    assert b'dah_problems{kind="storage_full"} 0.0' in metrics.exposition()
    metrics.problems.clear(damaged("a"))
    metrics.problems.clear(damaged("b"))
    assert b'dah_problems{kind="damaged"} 0.0' in metrics.exposition()
