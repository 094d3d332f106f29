"""One volunteer hangs with every lease, still beating, and one is 20 times slower than it says: rounds close all the same."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path

from simulator.fleet import Fleet, FoundRun
from simulator.profile import Misbehaviour
from simulator.settings import FleetSettings, MisbehaviourSection, Spread

from tests.faults.coverage import assert_every_sample_once
from tests.faults.test_fleet_misbehaves import contributions
from tests.integration.live_run import serving
from tests.unit.tiny_data import tiny_run_folder

ROUNDS = 8
RUN = (
    f"run.total_images={ROUNDS * 480}",
    "inner.batch_images=4",
    "round.images=480",
    "lease.heartbeat_seconds=0.2",
    "lease.timeout_seconds=600",
    "evaluation.every_images=100000",
    "checkpoint.every_images=100000",
)
FLEET = FleetSettings(workers=6, speed=Spread(median=100.0), misbehaviour=MisbehaviourSection(hang=1 / 6, slow=1 / 6))


def test_hung_and_slow_hold_no_round_and_the_slow_one_counts_by_its_size(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *RUN)
    with serving(folder) as run:
        fleet = Fleet(FoundRun.at(run.url), FLEET)
        asyncio.run(fleet.work(None))
        assert run.status()["images"] == ROUNDS * 480
    images: dict[Misbehaviour, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    kinds = {v.profile.identity.worker_id: v.profile.misbehaviour for v in fleet.volunteers}
    for contribution in contributions(folder):
        images[kinds[contribution.worker_id]][contribution.round_number] += contribution.images
    assert set(images) == {Misbehaviour.NONE, Misbehaviour.SLOW}
    slow, honest = images[Misbehaviour.SLOW], images[Misbehaviour.NONE]
    assert len(slow) >= 2, "what the slow one did never counted"
    # Of its size, once it is known how slow it is.
    later = [number for round_number, number in slow.items() if round_number > min(slow)]
    assert max(later) < max(honest.values()) / 4
    assert_every_sample_once(folder)
