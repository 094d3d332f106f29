"""Judges checkpoints one after another while rounds go on, each in a process of its own that is behind everything else.

What is due is a function of the ledger (`choice.py`), so nothing is queued and nothing can be forgotten. A judgement that fails
is a problem and not the run's: its checkpoint is tried again by the next coordinator, `MOST_TRIES` times in all. A stop
kills the process and counts as no try.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from coordinator.bell import Bell
from coordinator.exporter import give_way
from coordinator.in_thread import in_thread
from coordinator.judging.choice import MOST_TRIES, to_judge
from coordinator.judging.process import JudgingFailed, judge_in_process
from coordinator.judging.work import Made, Work
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.metrics import Metrics
from coordinator.problems import JUDGING_FAILED
from coordinator.records import Checkpoint, Judgement, now_ms
from coordinator.run_folder import RunFolder
from coordinator.status import JudgingStatus
from diffusion_at_home import events
from diffusion_at_home.errors import StorageError
from diffusion_at_home.runspec import RunSpec

_RETRY_SECONDS: Final = 30.0
"""While the disk is full."""

_log = events.logger("coordinator")


class Judge:
    """One checkpoint at a time, the newest first."""

    def __init__(
        self,
        *,
        spec: RunSpec,
        folder: RunFolder,
        ledger: LedgerThread,
        metrics: Metrics,
        exported: asyncio.Event,
        off: str,
    ) -> None:
        """`exported` is set when there is a new checkpoint; `off` says why nothing is judged (`why_not`), or is empty."""
        self._every_images = spec.config.judging.every_images
        self._off = off
        self._ledger = ledger
        self._metrics = metrics
        self._problems = metrics.problems
        self._work = Work(folder, spec)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="judging", initializer=give_way)
        self._exported = exported
        self._done = Bell()
        self._failed_here = set[str]()
        """Not tried again by this process."""
        self._now: Checkpoint | None = None
        self._since_ms: int | None = None
        self._num_waiting = 0

    @property
    def status(self) -> JudgingStatus:
        """For people."""
        name = None if self._now is None else self._now.name
        return JudgingStatus(name, self._since_ms, self._num_waiting, self._off)

    async def run(self) -> None:
        """Judge what is due, for ever."""
        if self._off:
            _log.info("judging_off", reason=self._off)
            return
        while True:
            self._exported.clear()  # before we look, or a checkpoint that comes meanwhile would be missed
            try:
                due = await self._due()
                self._num_waiting = max(0, len(due) - 1)
                if due:
                    await self._judge(due[0])
                    self._problems.written("judgements")
            except StorageError as error:
                self._problems.not_written("judgements", error)
                _log.error("storage_error", error=str(error), retry_seconds=_RETRY_SECONDS)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if not due:
                await self._exported.wait()

    async def idle(self) -> None:
        """Wait until nothing is due."""
        while not self._off and (self._now is not None or await self._due()):
            await self._done.wait(0.5)

    def close(self) -> None:
        """Finish what was begun."""
        self._executor.shutdown(wait=True)

    # -- inside -------------------------------------------------------------------------------------------------

    async def _due(self) -> list[Checkpoint]:
        exported = await self._ledger.run(Ledger.exported)
        offered = {checkpoint.name for checkpoint in await self._ledger.run(Ledger.checkpoints)}
        judged = {judgement.checkpoint for judgement in await self._ledger.run(Ledger.judged)}
        failed = Counter(failure.checkpoint for failure in await self._ledger.run(Ledger.failed_judgements))
        offered -= self._failed_here
        return to_judge(exported, self._every_images, offered=offered, judged=judged, failures=failed)

    async def _judge(self, checkpoint: Checkpoint) -> None:
        self._now, self._since_ms = checkpoint, now_ms()
        _log.info("judging", checkpoint=checkpoint.name)
        try:
            judgement = await self._judged(checkpoint)
        except (JudgingFailed, OSError) as error:
            await self._failed(checkpoint, str(error))
        else:
            self._problems.clear(JUDGING_FAILED)
            self._metrics.judgements.labels(outcome="judged").inc()
            _log.info("checkpoint_judged", **_in_short(judgement))
        finally:
            self._now = self._since_ms = None
            self._done.ring()

    async def _judged(self, checkpoint: Checkpoint) -> Judgement:
        """All of it, to the ledger's row. Raises `JudgingFailed`, `StorageError`."""
        earlier = await self._ledger.run(Ledger.judgements)
        named = await self._ledger.run(Ledger.judging_files)
        try:
            task = await in_thread(self._executor, self._work.prepare, checkpoint, earlier, named)
            await judge_in_process(task, self._work.said)
            made: Made = await in_thread(self._executor, self._work.collect, task, checkpoint, earlier, named)
            await self._ledger.run(Ledger.add_judgement, made.judgement, made.files)
            await in_thread(self._executor, self._work.publish, task)
        finally:
            # Also when we are told to stop: what is found here at a start was left by a coordinator that died.
            await in_thread(self._executor, self._work.clear)
        return made.judgement

    async def _failed(self, checkpoint: Checkpoint, reason: str) -> None:
        self._failed_here.add(checkpoint.name)
        if checkpoint not in await self._ledger.run(Ledger.checkpoints):
            _log.info("judgement_dropped", checkpoint=checkpoint.name)  # it went while it was judged
            return
        failed = await self._ledger.run(Ledger.add_failed_judgement, checkpoint.name, reason)
        self._metrics.judgements.labels(outcome="failed").inc()
        _log.error("judgement_failed", checkpoint=checkpoint.name, attempt=failed.number, reason=reason)
        then = "at the next start it is tried again" if failed.number < MOST_TRIES else "it stays without a judgement"
        self._problems.set(JUDGING_FAILED, f"{checkpoint.name} could not be judged ({reason}): {then}")


def _in_short(judgement: Judgement) -> dict[str, object]:
    figures = {"frechet": judgement.frechet, "kernel": judgement.kernel, "retrieval": judgement.retrieval}
    rounded = {name: None if value is None else round(value, 5) for name, value in figures.items()}
    return {"checkpoint": judgement.checkpoint, "images": judgement.images, **rounded}
