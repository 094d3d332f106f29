"""Real processes of `dah`, to be stopped, killed and starved: forked from one that has imported everything, or started anew."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol, TypeVar

from coordinator.run_folder import RunFolder
from tests.faults import seams
from tests.faults.plan import FaultPlan
from tests.faults.points import Who
from tests.integration.forks import become_dah, forks
from tests.integration.live_run import LiveRun

_FIRST_EPHEMERAL_PORT = 32_768
"""Linux's: /proc/sys/net/ipv4/ip_local_port_range."""
PATIENCE_SECONDS = 60.0
"""Longest that anything here is waited for; a fault that takes longer is one that was not survived."""

QUICK_WORKER = tuple(
    word
    for setting in ("threads=1", "device='cpu'", "retry_floor_seconds=0.5", "retry_ceiling_seconds=1")
    for word in ("--set", setting)
)

NO_CHANGE: Mapping[str, str] = {}

T = TypeVar("T")

_ROOT = Path(__file__).resolve().parents[2]
_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"}


class Started(Protocol):
    """A process of the operating system, however it came to be."""

    @property
    def pid(self) -> int: ...

    @property
    def exit_code(self) -> int | None:
        """None while it runs; the number of the signal that killed it, negative."""

    def wait(self, seconds: float | None) -> None:
        """Until it has ended, if that is within so long."""


class Forked:
    """From a process that has imported everything: quick to start."""

    def __init__(
        self, arguments: Sequence[str], out: Path, faults: FaultPlan | None, environment: Mapping[str, str]
    ) -> None:
        plan = faults.to_json() if faults else None
        self._process: BaseProcess = forks.Process(
            target=_run, args=(list(arguments), str(out), plan, dict(environment))
        )
        self._process.start()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    @property
    def exit_code(self) -> int | None:
        return self._process.exitcode

    def wait(self, seconds: float | None) -> None:
        self._process.join(seconds)


class Fresh:
    """From nothing, as a user's service manager starts it."""

    def __init__(
        self, arguments: Sequence[str], out: Path, faults: FaultPlan | None, environment: Mapping[str, str]
    ) -> None:
        module = ["tests.faults.under_faults", faults.to_json()] if faults else ["diffusion_at_home"]
        kept = {"PYTHONDONTWRITEBYTECODE": ""}  # what is compiled, as on everybody else's machine
        around = {**_ENVIRONMENT, **kept, **environment}
        with out.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *module, *arguments], stdout=output, stderr=output, cwd=_ROOT, env=around
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def wait(self, seconds: float | None) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)


StartProcess = Callable[[Sequence[str], Path, FaultPlan | None, Mapping[str, str]], Started]


class Process:
    """One `dah` command; what it prints goes to a file."""

    def __init__(
        self,
        arguments: Sequence[str],
        out: Path,
        faults: FaultPlan | None = None,
        start: StartProcess = Forked,
        environment: Mapping[str, str] = NO_CHANGE,
    ) -> None:
        """`environment` is added to what this process has."""
        self._out = out
        self._process = start(arguments, out, faults, environment)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return self._out.read_text() if self._out.exists() else ""

    @property
    def result(self) -> dict[str, Any]:
        """The JSON object that its last line is."""
        found: dict[str, Any] = json.loads(self.output.strip().splitlines()[-1])
        return found

    def kill(self) -> None:
        """kill -9."""
        if self._process.exit_code is None:
            os.kill(self.pid, signal.SIGKILL)
        self._process.wait(None)

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait()

    def wait(self, patience_seconds: float = PATIENCE_SECONDS) -> int:
        """The exit code."""
        self._process.wait(patience_seconds)
        assert self._process.exit_code is not None, f"still running:\n{self.output}"
        return self._process.exit_code

    @property
    def is_gone(self) -> bool:
        return self._process.exit_code is not None

    def must_live(self) -> None:
        assert not self.is_gone, self.output


class Worker(Process):
    """A volunteer's process, and what it says of itself."""

    def __init__(
        self,
        arguments: Sequence[str],
        out: Path,
        status: Path,
        faults: FaultPlan | None = None,
        start: StartProcess = Forked,
        environment: Mapping[str, str] = NO_CHANGE,
    ) -> None:
        super().__init__(arguments, out, faults, start, environment)
        self._status = status

    @property
    def status(self) -> dict[str, Any]:
        """Empty before its first word."""
        found: dict[str, Any] = json.loads(self._status.read_text()) if self._status.is_file() else {}
        return found if found.get("pid") == self.pid else {}

    @property
    def worker_id(self) -> str:
        return str(self.status["worker_id"])

    def is_training(self) -> bool:
        """Whether it is in the middle of a lease."""
        status = self.status
        return status.get("state") == "training" and 0 < status["lease_images"] < status["lease_quota_images"]


def _run(arguments: list[str], out: str, faults: str | None, environment: dict[str, str]) -> None:
    if faults is not None:
        seams.install(FaultPlan.from_json(faults), Who(arguments[0]))
    become_dah(arguments, out=Path(out), err=Path(out), environment={"OMP_NUM_THREADS": "1"} | environment)


class House:
    """The processes of one test and where they live; all are gone when it ends."""

    def __init__(self, root: Path, start: StartProcess = Forked) -> None:
        self.root = root
        self._start = start
        self._processes: list[Process] = []
        self.ports = free_ports()
        """Of its coordinators: HTTP, gRPC."""

    def start(
        self,
        name: str,
        *arguments: str,
        faults: FaultPlan | None = None,
        environment: Mapping[str, str] = NO_CHANGE,
    ) -> Process:
        process = Process(arguments, self.root / f"{name}.out", faults, self._start, environment)
        self._processes.append(process)
        return process

    def begin_coordinator(
        self,
        folder: RunFolder,
        *options: str,
        faults: FaultPlan | None = None,
        environment: Mapping[str, str] = NO_CHANGE,
    ) -> Process:
        """One that is not open yet; the next one of this house has the same ports, unless they are changed."""
        folder.address.unlink(missing_ok=True)  # left by one that was killed
        ports = ("--http-port", str(self.ports[0]), "--grpc-port", str(self.ports[1]))
        words = ("coordinator", "run", str(folder.root), *ports, *options, "--json")
        return self.start("coordinator", *words, faults=faults, environment=environment)

    def coordinator(
        self,
        folder: RunFolder,
        *options: str,
        faults: FaultPlan | None = None,
        environment: Mapping[str, str] = NO_CHANGE,
    ) -> tuple[Process, LiveRun]:
        """One that is open."""
        process = self.begin_coordinator(folder, *options, faults=faults, environment=environment)
        # Its file may be there before the address is in it.
        url = wait_until(lambda: folder.address.read_text() if folder.address.is_file() else None, process)
        return process, LiveRun(url, folder)

    def worker(self, name: str, run: LiveRun, *options: str, faults: FaultPlan | None = None) -> Worker:
        """A worker; one of the same name has the same key."""
        return self.worker_at(name, [run.url], *options, faults=faults)

    def worker_at(
        self,
        name: str,
        urls: Sequence[str],
        *options: str,
        faults: FaultPlan | None = None,
        environment: Mapping[str, str] = NO_CHANGE,
    ) -> Worker:
        """A worker that is told these addresses, or none if it has joined before."""
        state = self.root / name
        arguments = ("worker", "run", *urls, *QUICK_WORKER, "--state-dir", str(state), *options, "--json")
        out = self.root / f"{name}.out"
        worker = Worker(arguments, out, state / "status.json", faults, self._start, environment)
        self._processes.append(worker)
        return worker

    def close(self) -> None:
        for process in self._processes:
            process.kill()


@contextmanager
def house(root: Path, start: StartProcess = Forked) -> Iterator[House]:
    made = House(root, start)
    try:
        yield made
    finally:
        made.close()


def free_ports() -> tuple[int, int]:
    """Two that nobody listens on now, and that the system gives to no connection of its own accord.

    Of those it gives, one could be another test's while a coordinator is dead; and whoever calls a dead one again and again is
    at last connected to itself, and holds it.
    """
    chance, found = random.SystemRandom(), list[int]()
    while len(found) < 2:
        port = chance.randrange(10_000, _FIRST_EPHEMERAL_PORT)
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            found += [port] if port not in found else []
    return found[0], found[1]


class Living(Protocol):
    """A process that a test waits beside."""

    @property
    def output(self) -> str: ...

    def must_live(self) -> None: ...


def wait_until(
    found: Callable[[], T | None],
    *processes: Living,
    explain: Callable[[], str] = str,
    patience_seconds: float = PATIENCE_SECONDS,
) -> T:
    """What `found` returns once it is neither None nor false; `processes` must live until then.

    When it takes too long, what they printed and `explain` are told.
    """
    deadline, pause = time.monotonic() + patience_seconds, threading.Event()
    while not (result := found()):
        for process in processes:
            process.must_live()
        assert time.monotonic() < deadline, "\n".join([explain(), *(process.output for process in processes)])
        pause.wait(0.02)
    return result


def is_stopped(pid: int) -> bool:
    """By SIGSTOP."""
    state: str = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "T"
