"""Receipts that never arrive: what was handed in is applied once, credited once, and its receipt is the same again."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from simulator.fleet import Fleet, FoundRun
from simulator.settings import FleetSettings, MisbehaviourSection, Spread

from coordinator.replay import replay
from tests.faults.test_fleet_misbehaves import contributions
from tests.integration.live_run import serving
from tests.unit.tiny_data import tiny_run_folder

LOST = 60
RUN = (
    f"run.total_images={8 * LOST}",
    "round.images=96",
    "round.quorum=1.0",
    "lease.min_steps=1",
    "lease.probe_steps=1",
    "lease.max_steps=1",
    "evaluation.every_images=100000",
    "checkpoint.every_images=100000",
)
FLEET = FleetSettings(workers=6, speed=Spread(median=0.0), misbehaviour=MisbehaviourSection(lose_receipts=1.0))


def test_contribution_whose_receipt_is_lost_counts_once(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *RUN)
    with serving(folder) as run:
        fleet = Fleet(FoundRun.at(run.url), FLEET)
        asyncio.run(fleet.work(None))
    accepted = contributions(folder)
    counts = fleet.tally.counts
    assert counts["receipts lost"] >= LOST
    assert set(Counter(c.lease_id for c in accepted).values()) == {1}
    assert len(accepted) == counts["accepted"] == LOST
    assert sum(c.images for c in accepted) == counts["images"] == 8 * LOST
    assert counts["receipts that differ"] == 0
    assert replay(folder).images == 8 * LOST
