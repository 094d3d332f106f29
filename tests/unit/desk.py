"""A dispatcher with its real ledger on a manual clock, called as if it were synchronous."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from coordinator.attentive_clock import AttentiveClock
from coordinator.closing import CloseReason
from coordinator.data_pool import DataPool
from coordinator.dispatcher import Dispatcher, IdleReason
from coordinator.hand_in import Work
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.problems import Problems
from coordinator.records import Contribution, Lease, Round, RoundState, Version, Worker
from diffusion_at_home.clock import Clock, ManualClock
from diffusion_at_home.data.order import DataCursor
from diffusion_at_home.identity import WorkerId
from diffusion_at_home.kept_weights import KeptWeights
from tests.unit.tiny_data import SHARD_SIZES
from tests.unit.tiny_run import tiny_config

ANNA, BERT, CARL = (WorkerId(name * 4) for name in ("anna", "bert", "carl"))
SHA = "a" * 64

T = TypeVar("T")


def new_ledger(path: Path) -> Ledger:
    """A ledger with three workers and version 0."""
    ledger = Ledger.create(path, run_id="tiny-00000000", spec_sha256=SHA, pool=DataPool(DataCursor(0, 0, 0)))
    for worker in (ANNA, BERT, CARL):
        ledger.join(a_worker(worker))
    ledger.publish(a_version(0))
    return ledger


def a_worker(worker_id: WorkerId, token: str = "") -> Worker:
    name = worker_id[:4]
    return Worker(worker_id, b"k" * 32, f"{token}{name:0>60}"[:64], 1, name, "cpu", "none", 1, 2**30, "0.1.0", 1)


def a_version(number: int, images: int = 0) -> Version:
    return Version(number, images, f"{number:064}", SHA if number else "", 10 * number, SHA, 100, 1)


def a_round(number: int, target_images: int = 64) -> Round:
    return Round(number, target_images, RoundState.OPEN, 1, "")


class Desk:
    """Opens the dispatcher of the ledger at `path`, which is made if it is not there."""

    def __init__(self, path: Path, *overrides: str, attentive: bool = False) -> None:
        """`attentive`: silence is measured as by a coordinator whose loop ticks when the test says so."""
        self.clock = ManualClock(1000.0)
        self.attention = AttentiveClock(self.clock)
        self._silence: Clock = self.attention if attentive else self.clock
        self._path = path
        self._config = tiny_config("lease.probe_steps=2", "round.max_seconds=100", *overrides)
        self._runner = asyncio.Runner()
        if not path.exists():
            new_ledger(path).close()
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ledger.close()
        self._runner.close()

    def _start(self) -> None:
        self.ledger = Ledger(self._path)
        self._ledger = LedgerThread(self.ledger, Problems())
        self.dispatcher = Dispatcher(
            config=self._config,
            shard_sizes=SHARD_SIZES,
            ledger=self._ledger,
            pool=self.ledger.pool(),
            clock=self.clock,
            attention=self._silence,
            chance=random.Random(0),
        )

    def restart(self, number: int = 1) -> None:
        """As after a kill: nothing is left but the ledger, in which round `number` is open."""
        self.kill()
        self.open(number, is_new=False)

    def kill(self) -> None:
        """Leave nothing but the ledger, and start anew."""
        self._ledger.close()
        self._start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def open(self, number: int = 1, target_images: int = 64, *, is_new: bool = True) -> None:
        self.run(self.dispatcher.open(a_round(number, target_images), images_before=0, is_new=is_new))

    def close(self) -> None:
        """The open round; its version is published at once."""
        number = self.dispatcher.round_number
        assert number is not None
        self.run(self.dispatcher.close(CloseReason.TIME))
        self.ledger.publish(a_version(number))

    def ask(self, worker: WorkerId) -> Lease | IdleReason:
        self.dispatcher.greet(worker, 0.0)
        return self.run(self.dispatcher.grant(worker))

    def lease(self, worker: WorkerId) -> Lease:
        outcome = self.ask(worker)
        assert isinstance(outcome, Lease)
        return outcome

    def accept(self, lease: Lease, images: int | None = None, sha256: str = SHA, train_ms: int = 1000) -> Contribution:
        return self.run(self.dispatcher.accept(work(lease, images, sha256, train_ms)))

    def release(self, lease: Lease) -> None:
        self.run(self.dispatcher.release(lease.worker_id, lease.lease_id))

    def expire_after(self, seconds: float) -> int:
        self.clock.advance(seconds)
        return self.run(self.dispatcher.expire())


def work(lease: Lease, images: int | None = None, sha256: str = SHA, train_ms: int = 1000) -> Work:
    return Work(
        lease, sha256, 100, lease.quota_images if images is None else images, 0.5, train_ms, "", KeptWeights.EXACT
    )
