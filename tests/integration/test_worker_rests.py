"""A worker's wishes meet whatever it does at the moment: it waits for a network, rests by a rule, trains a lease."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.live_run import serving
from tests.unit.tiny_data import tiny_run_folder
from worker.conditions.hindrance import Hindrance, IdleReason
from worker.control.permission import Unhindered
from worker.daemon import Daemon
from worker.joining import workplace
from worker.loop import Goal
from worker.progress import Status, WorkerState
from worker.settings import Device, WorkerSettings
from worker.state_folder import StateFolder

FOREVER = Goal()


class Night(Unhindered):
    """Hinders until it is day."""

    def __init__(self) -> None:
        self.day = threading.Event()

    def hindrance(self) -> Hindrance | None:
        return None if self.day.is_set() else Hindrance(IdleReason.HOURS, "it works from 22:00 on", None)


@contextmanager
def living(root: Path, url: str, conditions: Unhindered) -> Iterator[Daemon]:
    """A worker for the run at `url`, on a thread of its own until the test is over or it has left."""
    settings = WorkerSettings(
        device=Device.CPU, threads=1, retry_floor_seconds=300.0, state_dir=root, cache_dir=root / "cache"
    )
    folder = StateFolder(root)
    daemon = Daemon(settings, folder, require_sound=lambda _: None, conditions=conditions)
    thread = threading.Thread(target=daemon.run, args=(workplace(folder, [url]), FOREVER))
    thread.start()
    try:
        yield daemon
    finally:
        daemon.permission.stop()
        thread.join()


def until(daemon: Daemon, holds: Callable[[Status], bool], seconds: float = 60.0) -> Status:
    """The first status of which `holds` is true."""
    deadline = time.monotonic() + seconds
    while not holds(status := daemon.progress.status):
        assert time.monotonic() < deadline, status
        time.sleep(0.01)
    return status


def test_a_wish_is_heard_at_once_while_nobody_answers(tmp_path: Path) -> None:
    with living(tmp_path, "http://127.0.0.1:9", Unhindered()) as worker:
        until(worker, lambda status: status.state is WorkerState.WAITING)
        worker.permission.pause(None)
        paused = until(worker, lambda status: status.state is WorkerState.PAUSED, seconds=5)
        assert paused.idle_reason is IdleReason.PAUSED
        worker.permission.resume()
        until(worker, lambda status: status.state is WorkerState.WAITING)
        worker.permission.finish()
        left = until(worker, lambda status: status.state is WorkerState.STOPPED, seconds=5)
        assert left.reason == "it was asked to finish"


def test_a_rule_keeps_it_from_calling_and_finishing_hands_its_lease_in_whole(tmp_path: Path) -> None:
    night = Night()
    one_lease = ("run.total_images=100000", "round.images=100000", "lease.probe_steps=60", "lease.max_steps=60")
    rare = ("evaluation.every_images=1000000", "checkpoint.every_images=1000000")
    folder = tiny_run_folder(tmp_path, *one_lease, *rare)
    with serving(folder) as run, living(tmp_path / "state", run.url, night) as worker:
        rests = until(worker, lambda status: status.state is WorkerState.PAUSED)
        assert (rests.idle_reason, rests.reason) == (IdleReason.HOURS, "it works from 22:00 on")
        assert run.status()["workers"] == 0
        night.day.set()
        until(worker, lambda status: status.state is WorkerState.TRAINING)
        worker.permission.finish()
        left = until(worker, lambda status: status.state is WorkerState.STOPPED)
        assert (left.leases_done, left.images_total) == (1, left.lease_quota_images)
