"""Thirty volunteers, most of whom do something wrong: rounds go on, honest work counts once, the rest is refused by name."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import closing
from pathlib import Path

from simulator.fleet import Fleet, FoundRun
from simulator.profile import Misbehaviour
from simulator.settings import FleetSettings, LifeSection, MisbehaviourSection, Spread

from coordinator.ledger import Ledger
from coordinator.records import Contribution
from coordinator.replay import replay
from coordinator.run_folder import RunFolder
from tests.faults.coverage import assert_every_sample_once
from tests.integration.live_run import serving
from tests.unit.tiny_data import tiny_run_folder

IMAGES = 3200
RUN = (
    f"run.total_images={IMAGES}",
    "round.images=800",
    "round.max_seconds=4.0",
    "lease.probe_steps=2",
    "lease.max_steps=4",
    "lease.heartbeat_seconds=0.2",
    "lease.timeout_seconds=1.0",
    "evaluation.every_images=100000",
    "checkpoint.every_images=100000",
)
FLEET = FleetSettings(
    workers=30,
    seed=1,
    speed=Spread(median=100.0, sigma=0.5),
    retry_ceiling_seconds=0.5,
    life=LifeSection(mean_seconds=3.0, pause=Spread(median=0.5)),
    misbehaviour=MisbehaviourSection(
        hang=0.07,
        slow=0.07,
        not_finite=0.07,
        garbage=0.07,
        wrong_size=0.07,
        mutate=0.07,
        lose_receipts=0.07,
        twice=0.07,
        oversleep=0.07,
    ),
)
NEVER_COUNT = {Misbehaviour.HANG, Misbehaviour.NOT_FINITE, Misbehaviour.GARBAGE, Misbehaviour.WRONG_SIZE}


def contributions(folder: RunFolder) -> list[Contribution]:
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        numbers = range(1, ledger.newest_version().version + 1)
        return [found for number in numbers for found in ledger.contributions(number)]


def test_misbehaving_fleet_completes_a_run_and_only_honest_work_counts_once(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *RUN)
    with serving(folder) as run:
        fleet = Fleet(FoundRun.at(run.url), FLEET)
        asyncio.run(fleet.work(None))
    accepted = contributions(folder)
    kinds = {v.profile.identity.worker_id: v.profile.misbehaviour for v in fleet.volunteers}
    assert set(kinds.values()) == set(Misbehaviour)
    assert not {kinds[c.worker_id] for c in accepted} & NEVER_COUNT
    assert max(Counter(c.lease_id for c in accepted).values()) == 1
    assert sum(c.images for c in accepted) >= fleet.tally.counts["images"]  # a death may take a receipt with it
    assert fleet.tally.counts["receipts that differ"] == 0
    assert fleet.tally.counts["vanished"] > 0
    refused = {reason for call, reason in fleet.tally.refusals if call == "submit"}
    assert refused >= {"undecodable", "wrong_size", "duplicate"}
    assert_every_sample_once(folder)
    assert replay(folder).images >= IMAGES - 16
