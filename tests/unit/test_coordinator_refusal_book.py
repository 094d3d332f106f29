"""Refused calls are counted for the worker whose they were: a row a day and reason, whatever comes, and for some weeks."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.metrics import Metrics
from coordinator.page_queries import RefusedRow
from coordinator.problems import Problems
from coordinator.refusal_book import KEPT_DAYS, RefusalBook
from coordinator.refused import Refused
from diffusion_at_home.errors import StorageError
from diffusion_at_home.rpc.coordinator_pb2 import Refusal
from tests.unit.desk import ANNA, BERT, new_ledger

BUSY = Refused(Refusal.REFUSAL_BUSY, "come back later")
LATE = Refused(Refusal.REFUSAL_ROUND_CLOSED, "too late")


class Shelf:
    """A book, the ledger that it is kept in, and a calendar."""

    def __init__(self, path: Path, thread: type[LedgerThread] = LedgerThread) -> None:
        self.path = path
        self.day = 20_000
        self.metrics = Metrics()
        self.ledger = thread(new_ledger(path), Problems())
        self.book = RefusalBook(self.metrics, self.ledger, lambda: self.day)

    def store(self) -> None:
        asyncio.run(self.book.store())

    def rows(self) -> list[Any]:
        with closing(sqlite3.connect(self.path)) as raw:
            return raw.execute("SELECT worker_id, day, reason, calls FROM refusals ORDER BY 1, 2, 3").fetchall()


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path / "ledger.sqlite")
    yield made
    made.ledger.close()


def test_a_million_refusals_of_one_worker_are_a_row_for_each_reason(shelf: Shelf) -> None:
    for _ in range(3):
        for number in range(2_000):
            shelf.book.note("heartbeat", LATE if number == 7 else BUSY, ANNA)
        shelf.store()
    shelf.book.note("lease", BUSY, BERT)
    shelf.store()
    shelf.store()
    assert shelf.rows() == [(ANNA, 20_000, "busy", 5_997), (ANNA, 20_000, "round_closed", 3), (BERT, 20_000, "busy", 1)]
    assert shelf.metrics.refusal_counts() == {"busy": 5_998, "round_closed": 3}


def test_what_nobody_proved_to_be_theirs_is_counted_for_the_run_alone(shelf: Shelf) -> None:
    shelf.book.note("join", BUSY, None)
    shelf.store()
    assert shelf.rows() == []
    assert shelf.metrics.refusal_counts() == {"busy": 1}


def test_days_pass_out_of_the_ledger(shelf: Shelf) -> None:
    for _ in range(3 * KEPT_DAYS):
        shelf.book.note("lease", BUSY, ANNA)
        shelf.store()
        shelf.day += 1
    assert [day for _, day, _, _ in shelf.rows()] == list(range(shelf.day - KEPT_DAYS, shelf.day))


def test_a_worker_is_told_by_reason_the_most_frequent_first(shelf: Shelf) -> None:
    for day, refused in ((0, LATE), (20, BUSY), (21, BUSY), (25, LATE), (26, LATE)):
        shelf.day = 20_000 + day
        shelf.book.note("submit", refused, ANNA)
    shelf.store()
    with closing(Ledger(shelf.path, read_only=True)) as ledger:
        assert ledger.refusals_of(ANNA, 0) == [RefusedRow("round_closed", 3, 20_026), RefusedRow("busy", 2, 20_021)]
        assert ledger.refusals_of(ANNA, 20_021) == [
            RefusedRow("round_closed", 2, 20_026),
            RefusedRow("busy", 1, 20_021),
        ]
        assert ledger.refusals_of(BERT, 0) == []


class FullAtFirst(LedgerThread):
    """Whose disk has room again the second time."""

    asked = 0

    async def run(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        self.asked += 1
        if self.asked == 1:
            raise StorageError("the disk is full: free some space")
        return await super().run(method, *args, **kwargs)


def test_what_cannot_be_stored_now_is_stored_later_and_once(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "ledger.sqlite", FullAtFirst)
    shelf.book.note("lease", BUSY, ANNA)
    shelf.store()
    assert shelf.rows() == []
    shelf.book.note("lease", BUSY, ANNA)
    shelf.store()
    shelf.store()
    assert shelf.rows() == [(ANNA, 20_000, "busy", 2)]
    shelf.ledger.close()
