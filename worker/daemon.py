"""The worker's composition root and its life: rest, work, rest, until there is nothing more to do.

A stretch of work opens all it needs and closes it again when it must end; between two of them nothing is held, on the
device neither, and nothing is computed. The worker never gives up on a coordinator that is down, has moved or talks nonsense:
it waits, says so, looks for it at all its addresses, and ends within a second when asked to. What no longer fits the run is
closed and opened anew.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from typing import Final

from rich.console import Console

from diffusion_at_home import events
from diffusion_at_home.clock import SystemClock
from diffusion_at_home.errors import RunChanged
from diffusion_at_home.host_heap import give_back_heap
from worker.background import Background
from worker.backoff import Backoff
from worker.conditions.conditions import Conditions as OwnersConditions
from worker.conditions.sensors import this_machines_sensors
from worker.conditions.throttle import Throttle
from worker.conditions.traffic import Traffic
from worker.conditions.wall_clock import SystemWallClock
from worker.control.desk import Desk
from worker.control.pause_file import PauseFile
from worker.control.permission import Conditions, Permission, Unhindered
from worker.control.server import ControlServer
from worker.control.wishes import Wish
from worker.device import num_devices
from worker.live_line import live_line
from worker.loop import Goal
from worker.pace import Pace
from worker.pacer import Meters
from worker.progress import Progress, Status, WorkerState
from worker.selftest.devices import require_sound_devices
from worker.settings import WorkerSettings
from worker.state_folder import StateFolder, locked
from worker.step.out_of_memory import give_back_memory
from worker.steppers import OpenStepper, open_stepper
from worker.stop import Interrupted, on_signals
from worker.stretch import Lasting, Stretch
from worker.whereabouts import Workplace

_log = events.logger("worker")

_UNHINDERED: Final = Unhindered()
_UNMETERED: Final = Meters()


def run_worker(
    settings: WorkerSettings,
    folder: StateFolder,
    place: Workplace,
    goal: Goal,
    read_settings: Callable[[], WorkerSettings],
) -> Status:
    """Work for the run at `place` until its owner, the goal or the end of the run says so.

    `read_settings` gives those of the moment, whenever its owner has changed them. Returns the last status. Raises
    `LeaveRun`, `StopProcess`.
    """
    console = Console(stderr=True)
    with (
        folder.locked(),
        locked(settings.cache_dir / "blobs.lock", "stop it or set another cache_dir"),
        _events(folder, console),
    ):
        clock, wall = SystemClock(), SystemWallClock()
        traffic = Traffic(folder.traffic, clock, wall)
        conditions = OwnersConditions(settings, this_machines_sensors(), traffic, clock, wall)
        daemon = Daemon(settings, folder, conditions=conditions, meters=Meters(up=traffic.up, down=traffic.down))
        permission = daemon.permission
        desk = Desk(
            permission,
            reload=lambda: daemon.reload(read_settings()),
            status=lambda: daemon.progress.status,
            now=_local_time,
        )
        server = ControlServer(folder.control, desk.answer)
        with (
            closing(traffic),
            on_signals(permission.stop),
            Background("control", server.run, permission.stop),
            live_line(console, lambda: daemon.progress.status),
        ):
            daemon.run(place, goal)
        return daemon.progress.status


class Daemon:
    """One worker process."""

    def __init__(
        self,
        settings: WorkerSettings,
        folder: StateFolder,
        open_stepper: OpenStepper = open_stepper,
        require_sound: Callable[[WorkerSettings], None] = require_sound_devices,
        conditions: Conditions = _UNHINDERED,
        meters: Meters = _UNMETERED,
    ) -> None:
        """`require_sound` raises `HardwareError` if this machine computes wrongly."""
        clock = SystemClock()
        self.progress = Progress(folder.status, clock)
        self.permission = Permission(PauseFile(folder.pause), conditions, _local_time)
        self._throttle = Throttle(settings, clock)
        self._lasting = Lasting(
            folder=folder,
            open_stepper=open_stepper,
            progress=self.progress,
            clock=clock,
            pace=Pace(),
            throttle=self._throttle,
            meters=meters,
        )
        self._settings = settings
        self._require_sound = require_sound
        self._sound_with: WorkerSettings | None = None
        self._changes = 0

    def run(self, place: Workplace, goal: Goal) -> None:
        """See `run_worker`."""
        try:
            with Background("permission", self.permission.watch, self.permission.stop):
                reason = self._live(place, goal)
        except BaseException as error:  # raised again; the status file must say why
            self.progress.enter(WorkerState.STOPPED, f"{error}" or type(error).__name__)
            raise
        self.progress.enter(WorkerState.STOPPED, reason)
        status = self.progress.status
        _log.info("worker_stopped", reason=status.reason, images=status.images_total, leases=status.leases_done)

    def reload(self, settings: WorkerSettings) -> None:
        """Go by `settings`: rules at once, the rest from the next stretch on, folders from the next start on."""
        kept = {"state_dir": self._settings.state_dir, "cache_dir": self._settings.cache_dir}
        self._settings = settings.model_copy(update=kept)
        self._throttle.reload(self._settings)
        self.permission.reload(self._settings)

    def _live(self, place: Workplace, goal: Goal) -> str:
        """Rest and work until it is over; returns why it is."""
        while self.permission.wait(self.progress.rest):
            if over := self._work(place, goal):
                return over
            give_back_memory()  # here, where nothing of the stretch is known any more
            give_back_heap()
        return "it was asked to stop" if self.permission.wish is Wish.STOPPING else "it was asked to finish"

    def _work(self, place: Workplace, goal: Goal) -> str:
        """One stretch; returns why it was the last one, if it was."""
        with self.permission.stretch() as stop:
            settings = self._settings
            try:
                self._self_test(settings)
                with ExitStack() as opened:
                    return Stretch(self._lasting, settings, stop).open(place, goal, opened).run()
            except Interrupted:
                return ""
            except RunChanged as change:
                reason = str(change)
            self._changes += 1
            self.progress.enter(WorkerState.WAITING, f"{reason}: opening the run anew")
            _log.warning("run_changed", reason=reason)
            backoff = Backoff(settings.retry_floor_seconds, settings.retry_ceiling_seconds)
            stop.no_more.wait(backoff.seconds(self._changes))
            return ""

    def _self_test(self, settings: WorkerSettings) -> None:
        """Once, until the settings change: whoever resumes has not changed cards."""
        if settings == self._sound_with:
            return
        self.progress.enter(WorkerState.STARTING, "checking that this machine computes right")
        started = time.monotonic()
        self._require_sound(settings)
        self._sound_with = settings
        _log.info("self_test_passed", devices=num_devices(settings), seconds=round(time.monotonic() - started, 2))


def _local_time() -> datetime:
    return datetime.now(UTC).astimezone()


@contextmanager
def _events(folder: StateFolder, console: Console) -> Iterator[None]:
    """Within, events go to the worker's log, and to stderr unless a live line is drawn there."""
    events.configure(folder.log, None if console.is_terminal else sys.stderr)
    try:
        yield
    finally:
        events.configure(None, None)
