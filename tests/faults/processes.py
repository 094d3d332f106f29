"""Real processes of `dah`, to be stopped, killed and starved. Each is forked from one that has imported everything."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol, TypeVar

from coordinator.run_folder import RunFolder
from diffusion_at_home.cli import main
from tests.integration.live_run import LiveRun

PATIENCE_SECONDS = 60.0
"""Longest that anything here is waited for; a fault that takes longer is one that was not survived."""

QUICK_WORKER = tuple(
    word
    for setting in ("threads=1", "device='cpu'", "retry_floor_seconds=0.5", "retry_ceiling_seconds=1")
    for word in ("--set", setting)
)

NO_CHANGE: Mapping[str, str] = {}

T = TypeVar("T")

_fork = multiprocessing.get_context("forkserver")
_fork.set_forkserver_preload(["coordinator.app", "worker.daemon", "tests.faults.processes"])


class Process:
    """One `dah` command; what it prints goes to a file."""

    def __init__(self, arguments: Sequence[str], out: Path, environment: Mapping[str, str] = NO_CHANGE) -> None:
        """`environment` is added to what this process has."""
        self._out = out
        self._process: BaseProcess = _fork.Process(target=_run, args=(list(arguments), str(out), dict(environment)))
        self._process.start()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

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
        self._process.kill()
        self._process.join()

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """The exit code."""
        self._process.join(PATIENCE_SECONDS)
        assert self._process.exitcode is not None, f"still running:\n{self.output}"
        return self._process.exitcode

    def must_live(self) -> None:
        assert self._process.exitcode is None, self.output


class Worker(Process):
    """A volunteer's process, and what it says of itself."""

    def __init__(self, arguments: Sequence[str], out: Path, status: Path, environment: Mapping[str, str]) -> None:
        super().__init__(arguments, out, environment)
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


def _run(arguments: list[str], out: str, environment: dict[str, str]) -> None:
    os.environ.update({"OMP_NUM_THREADS": "1"} | environment)
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.argv = ["dah", *arguments]
    main()


class House:
    """The processes of one test and where they live; all are gone when it ends."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._processes: list[Process] = []
        self.ports = free_ports()
        """Of its coordinators: HTTP, gRPC."""

    def start(self, name: str, *arguments: str) -> Process:
        process = Process(arguments, self._root / f"{name}.out")
        self._processes.append(process)
        return process

    def coordinator(self, folder: RunFolder, *options: str) -> tuple[Process, LiveRun]:
        """One that is open; the next one of this house has the same ports, unless they are changed."""
        folder.address.unlink(missing_ok=True)  # left by one that was killed
        ports = ("--http-port", str(self.ports[0]), "--grpc-port", str(self.ports[1]))
        process = self.start("coordinator", "coordinator", "run", str(folder.root), *ports, *options, "--json")
        url = wait_until(lambda: folder.address.read_text() if folder.address.is_file() else None, process)
        return process, LiveRun(url, folder)

    def worker(self, name: str, run: LiveRun, *options: str) -> Worker:
        """A worker; one of the same name has the same key."""
        return self.worker_at(name, [run.url], *options)

    def worker_at(
        self, name: str, urls: Sequence[str], *options: str, environment: Mapping[str, str] = NO_CHANGE
    ) -> Worker:
        """A worker that is told these addresses, or none if it has joined before."""
        state = self._root / name
        arguments = ("worker", "run", *urls, *QUICK_WORKER, "--state-dir", str(state), *options, "--json")
        worker = Worker(arguments, self._root / f"{name}.out", state / "status.json", environment)
        self._processes.append(worker)
        return worker

    def close(self) -> None:
        for process in self._processes:
            process.kill()


@contextmanager
def house(root: Path) -> Iterator[House]:
    made = House(root)
    try:
        yield made
    finally:
        made.close()


def free_ports() -> tuple[int, int]:
    """Two that nobody listens on now."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


class Living(Protocol):
    """A process that a test waits beside."""

    @property
    def output(self) -> str: ...

    def must_live(self) -> None: ...


def wait_until(found: Callable[[], T | None], *processes: Living) -> T:
    """What `found` returns once it is neither None nor false; `processes` must live until then."""
    deadline, pause = time.monotonic() + PATIENCE_SECONDS, threading.Event()
    while not (result := found()):
        for process in processes:
            process.must_live()
        assert time.monotonic() < deadline, "\n".join(process.output for process in processes)
        pause.wait(0.02)
    return result
