"""One run under way: a coordinator and workers, each a process behind a line, that may be killed and come back."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx2

from benchmarks.lines.link import Line, Link, opened
from benchmarks.processes import CONFIG, dah, start
from coordinator.ledger import Ledger
from coordinator.run_folder import RunFolder

_LINE: Final = Line(up_bits_per_second=10e6, down_bits_per_second=50e6, delay_seconds=0.05)
_RUN: Final = (
    "run.total_images=1000000000",
    "evaluation.every_images=12000",
    "evaluation.max_images=360",
    "checkpoint.every_images=120000",
    "judging.every_images=0",
    "checkpoint.grid_prompts=['a handwritten seven']",
    "lease.timeout_seconds=10.0",
)
_WORKER: Final = ("threads=1", "device='cpu'")


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run came to."""

    images: int
    seconds: float
    """From its first lease."""
    losses: list[tuple[int, float]]
    """Images and held-out loss, of the better of raw and averaged weights."""

    @property
    def images_per_second(self) -> float:
        """Accepted ones."""
        return self.images / self.seconds


class Camp:
    """Everybody's processes; all are gone when it is left, and the run's folder stays."""

    def __init__(self, root: Path, workers: int, overrides: Sequence[str]) -> None:
        self.folder = RunFolder(root / "run")
        self.workers: list[subprocess.Popen[bytes]] = []
        self.links: list[Link] = []
        self._root = root
        self._num_workers = workers
        self._overrides = overrides
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._root.mkdir(parents=True)
            self._log = stack.enter_context((self._root / "log").open("wb"))
            dah("data", "build", "digits", str(self._root / "digits"))
            changes = [f"data.path='{self._root / 'digits'}'", *_RUN, *self._overrides]
            settings = [word for change in changes for word in ("--set", change)]
            dah("coordinator", "init", str(self.folder.root), "--config", str(CONFIG), *settings)
            self._ports = ["0", "0"]
            self._stack = stack
            self.start_coordinator()
            info = httpx2.get(f"{self._url}/run.json").json()
            self._ports = [str(httpx2.URL(self._url).port), str(info["grpc_port"])]
            self.links = [
                Link(_LINE, f"127.0.1.{index + 1}", [int(port) for port in self._ports])
                for index in range(self._num_workers)
            ]
            stack.enter_context(opened(self.links))
            self.workers = [self._start_worker(index) for index in range(self._num_workers)]
            self._started = time.monotonic()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def start_coordinator(self) -> None:
        """At its old ports, if it had any; returns when it is open."""
        self.folder.address.unlink(missing_ok=True)
        ports = ["--http-port", self._ports[0], "--grpc-port", self._ports[1]]
        words = ["-m", "diffusion_at_home", "coordinator", "run", str(self.folder.root), *ports]
        self.coordinator = start(self._stack, words, self._log.fileno())
        while not self.folder.address.is_file():
            assert self.coordinator.poll() is None, self.complaint
            time.sleep(0.05)

    def start_worker(self, index: int) -> None:
        """One that was killed, with the same key and the same folders."""
        self.workers[index] = self._start_worker(index)

    def check(self) -> None:
        """Nobody ends by himself."""
        assert self.coordinator.poll() is None, self.complaint
        assert all(worker.poll() is None for worker in self.workers), self.complaint

    @property
    def images(self) -> int:
        """Accepted into the newest version."""
        with closing(Ledger(self.folder.ledger, read_only=True)) as ledger:
            return ledger.newest_version().images

    @property
    def complaint(self) -> str:
        """The end of what everybody printed."""
        return (self._root / "log").read_text(errors="replace")[-4000:]

    def finish(self, images: int) -> Trained:
        """Go on undisturbed until a version has so many images or more; stop the workers; then have all that is due evaluated.

        Which gives way to all others, and may have found no time before.
        """
        while self.images < images:
            self.check()
            time.sleep(1.0)
        seconds = time.monotonic() - self._started
        for worker in self.workers:
            worker.terminate()
            worker.wait()
        while any(self.folder.exports.iterdir()):
            assert self.coordinator.poll() is None, self.complaint
            time.sleep(1.0)
        self.coordinator.terminate()
        self.coordinator.wait()
        print(f"{self.images} images in {seconds:.0f} s", file=sys.stderr, flush=True)
        return Trained(self.images, seconds, self._losses())

    def _losses(self) -> list[tuple[int, float]]:
        with closing(Ledger(self.folder.ledger, read_only=True)) as ledger:
            evaluations = ledger.evaluations()
        best: dict[int, float] = {}
        for evaluation in evaluations:
            best[evaluation.images] = min(evaluation.mean, best.get(evaluation.images, evaluation.mean))
        return sorted(best.items())

    @property
    def _url(self) -> str:
        return self.folder.address.read_text().strip()

    def _start_worker(self, index: int) -> subprocess.Popen[bytes]:
        state = self._root / f"worker-{index}"
        own = (*_WORKER, f"cache_dir='{state / 'cache'}'")
        settings = [word for setting in own for word in ("--set", setting)]
        url = f"http://127.0.1.{index + 1}:{self._ports[0]}"
        words = ["-m", "diffusion_at_home", "worker", "run", url, "--state-dir", str(state), *settings]
        return start(self._stack, words, self._log.fileno())
