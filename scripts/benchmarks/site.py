"""A coordinator in a process of its own, on this machine, that can be killed and started again at the same address."""

from __future__ import annotations

import itertools
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

import httpx2
import psutil

from benchmarks.processes import CONFIG, start
from coordinator.init import init_run
from coordinator.ledger import Ledger
from coordinator.records import Lease, LeaseId
from coordinator.run_folder import RunFolder
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.data.build import build

_POLL_SECONDS: Final = 0.02

ONE_MILLION: Final = ("model.prx.hidden_size=112", "model.prx.depth=3", "model.prx.heads=4")
"""Parameters, within a few percent."""

TINY: Final = (
    "model.prx.hidden_size=16",
    "model.prx.depth=1",
    "model.prx.heads=2",
    "model.text.hidden_size=16",
    "model.text.vocab_size=300",
)
"""A model of which nothing takes long."""

QUIET: Final = (
    "run.total_images=1000000000",
    "evaluation.every_images=1000000000",
    "evaluation.max_images=8",  # of the first version
    "checkpoint.every_images=1000000000",
    "judging.every_images=0",
    "screening.enabled=false",
)
"""Nothing beside the rounds; and made-up deltas are noise, or all alike, which is screened out. They are clipped all the same."""


class Site:
    """The coordinator of one run of configs/digits.toml."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.root = root
        self.folder = RunFolder(root / "run")
        self._stack = stack
        self._ports = (0, 0)
        self._process: subprocess.Popen[bytes] | None = None
        self.log = root / "log"

    @property
    def url(self) -> str:
        """The run's address."""
        return self.folder.address.read_text().strip()

    @property
    def local_url(self) -> str:
        """The same, of one that listens everywhere."""
        url = httpx2.URL(self.url)
        return str(url.copy_with(scheme="http", host="127.0.0.1", fragment=None)).rstrip("/")

    @property
    def process(self) -> psutil.Process:
        """To be looked at."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def start(self) -> float:
        """Start it; returns the seconds until it serves."""
        began = time.monotonic()
        self.folder.address.unlink(missing_ok=True)  # left by one that was killed
        log = self._stack.enter_context(self.log.open("ab"))
        ports = ["--http-port", str(self._ports[0]), "--grpc-port", str(self._ports[1])]
        command = ["-m", "diffusion_at_home", "coordinator", "run", str(self.folder.root), *ports]
        self._process = start(self._stack, command, log.fileno())
        while not (self.folder.address.is_file() and self.url):
            self.check()
            time.sleep(_POLL_SECONDS)
        seconds = time.monotonic() - began
        grpc_port = httpx2.get(f"{self.local_url}/run.json").json()["grpc_port"]
        self._ports = (httpx2.URL(self.url).port or 0, grpc_port)
        return seconds

    def kill(self) -> None:
        """Kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def check(self) -> None:
        """Fail if it has ended."""
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """To be read."""
        with closing(Ledger(self.folder.ledger, read_only=True)) as ledger:
            yield ledger

    def newest_version(self) -> int:
        """That is published."""
        with self.ledger() as ledger:
            return ledger.newest_version().version

    def leases(self) -> list[Lease]:
        """All that were ever granted, in order."""
        with self.ledger() as ledger:
            every = (ledger.lease(LeaseId(number)) for number in itertools.count(1))
            return [lease for lease in itertools.takewhile(bool, every) if lease is not None]

    def rows(self) -> set[str]:
        """Every row of every table of the ledger, as SQL that would make it."""
        with closing(sqlite3.connect(f"file:{self.folder.ledger}?mode=ro", uri=True)) as raw:
            return set(raw.iterdump())

    def await_version(self, version: int) -> None:
        """Wait until it is published."""
        while self.newest_version() < version:
            self.check()
            time.sleep(0.1)

    def await_evaluation(self, version: int = 0) -> None:
        """Wait for that of `version`."""
        while True:
            self.check()
            with self.ledger() as ledger:
                if any(evaluation.version == version for evaluation in ledger.evaluations()):
                    return
            time.sleep(0.2)


@contextmanager
def site(*overrides: str) -> Iterator[Site]:
    """A run of configs/digits.toml with `overrides`, served until the end of the block; the first version is evaluated."""
    with tempfile.TemporaryDirectory(prefix="dah-bench-") as scratch, ExitStack() as stack:
        root = Path(scratch)
        build("digits", root / "digits")
        made = Site(root, stack)
        init_run(made.folder, load_toml(CONFIG, RunConfig, [f"data.path='{root / 'digits'}'", *overrides]))
        made.start()
        made.await_evaluation()
        yield made
