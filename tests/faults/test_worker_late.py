"""A worker joins when others have long been at work: it catches up to the same bits and contributes."""

from __future__ import annotations

from pathlib import Path

from coordinator.replay import replay
from tests.faults.coverage import leases_of
from tests.faults.processes import house
from tests.integration.live_run import encoded, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder

EQUAL = ("lease.min_steps=2", "lease.probe_steps=2", "lease.max_steps=2")


def test_late_worker_catches_up_and_contributes(tmp_path: Path) -> None:
    quiet = ("evaluation.every_images=100000", "checkpoint.every_images=100000")
    folder = tiny_run_folder(tmp_path, *quiet, "round.images=16", *EQUAL)
    with serving(folder) as run, house(tmp_path) as home:
        with volunteers(run, 1) as (early,):
            for number in range(1, 7):
                early.submit(early.lease(), encoded(run, 0.01 * number))
                run.wait_for_version(number)
        late = home.worker("late", run, "--leases", "2")
        assert late.wait() == 0, late.output
        run.wait_for_version(8)
    assert late.status["refusals"] == {}  # a digest that is not the published one would be counted here
    assert [lease.base_version for lease in leases_of(folder, late.worker_id)] == [6, 7]
    assert replay(folder).versions == 9
