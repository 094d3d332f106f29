"""The whole run is killed, coordinator and workers, and started again: it ends in the same bits as if it had not been."""

from __future__ import annotations

from pathlib import Path

from coordinator.replay import replay
from tests.faults.fixed_fleet import EQUAL_LEASES, train
from tests.faults.processes import house
from tests.unit.tiny_data import tiny_run_folder

SIZES = ("run.total_images=768", "round.images=192", "lease.probe_steps=12", "lease.min_steps=12", "lease.max_steps=12")


def digests(root: Path, *, kill_after: int | None) -> list[str]:
    root.mkdir()
    folder = tiny_run_folder(root, *EQUAL_LEASES, *SIZES)
    with house(root) as home:
        found = train(home, folder, num_workers=2, kill_after=kill_after)
    assert replay(folder).images == 768
    return found


def test_n_images_and_n_more_after_a_restart_are_2n_without_one(tmp_path: Path) -> None:
    killed = digests(tmp_path / "killed", kill_after=2)
    assert killed == digests(tmp_path / "calm", kill_after=None)
    assert len(set(killed)) == 5
