"""Requests whose fields or bytes were changed at random: each is refused, none changes the ledger or tells of the program."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from simulator.fleet import FoundRun
from simulator.hostile import Hostile, Seen

from coordinator.run_folder import RunFolder
from tests.faults.processes import wait_until
from tests.integration.live_run import encoded, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder

RUN = (
    "round.images=16",
    "lease.probe_steps=2",
    "lease.timeout_seconds=600",
    "evaluation.every_images=100000",
    "checkpoint.every_images=100000",
)


def rows(folder: RunFolder) -> list[str]:
    """All but how many calls were refused."""
    with closing(sqlite3.connect(f"file:{folder.ledger}?mode=ro", uri=True)) as raw:
        return [line for line in raw.iterdump() if not line.startswith('INSERT INTO "refusals"')]


def refused(folder: RunFolder) -> list[tuple[str, int]]:
    """Calls by reason, of all workers."""
    with closing(sqlite3.connect(folder.ledger)) as raw:
        return raw.execute("SELECT reason, calls FROM refusals").fetchall()


def test_mutated_requests_change_nothing_and_tell_nothing(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *RUN)
    with serving(folder) as run:
        wait_until(lambda: run.status()["evaluations"])

        async def send() -> tuple[list[str], Seen, list[str]]:
            found = await asyncio.to_thread(FoundRun.at, run.url)
            async with Hostile.joined(found, seed=5) as hostile:
                before = rows(folder)
                seen = await hostile.send(600)
                return before, seen, rows(folder)

        before, seen, after = asyncio.run(send())
        assert after == before
        assert seen.sent == 600
        assert seen.traces == []
        answers = {answer for _, answer in seen.answers}
        assert answers >= {"malformed", "unknown_lease", "version_mismatch", "bad_signature"}
        assert not answers & {"(internal)", "(unknown)"}, seen.answers
        assert len(list(folder.staging.iterdir())) <= 1
    counted = refused(folder)
    assert {reason for reason, _ in counted} >= {"malformed", "unknown_lease"}
    assert len(counted) < 20
    assert sum(calls for _, calls in counted) <= seen.sent
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        status = run.status()
        assert (status["version"], status["active_leases"]) == (0, 1)
        assert anna.ask().idle.retry_after_ms > 0
        assert encoded(run)
