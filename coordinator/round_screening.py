"""Compares a round's contributions once it has closed, and has the ledger say how each counts, before a version is made of them.

Sketches are made while the round collects, one after another in a thread of its own, so that a close waits for the last few only.
They live in memory: after a restart they are made anew from the blobs, with another key. What was decided is decided.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from coordinator.blobs import BlobStore
from coordinator.dispatcher import Dispatcher
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.metrics import Metrics
from coordinator.records import Contribution, Fault, Lease, LeaseId, Verdict
from coordinator.sketch import Sketch, Sketcher
from coordinator.standing import Standing
from coordinator.verdicts import Given, Rules, decide, uncounted
from diffusion_at_home import events
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.errors import IntegrityError
from diffusion_at_home.wire.chunk import DecodeError
from diffusion_at_home.wire.vector import VectorReader

_log = events.logger("coordinator")


class RoundScreening:
    """Of one run."""

    def __init__(
        self,
        *,
        config: RunConfig,
        num_elements: int,
        blobs: BlobStore,
        ledger: LedgerThread,
        dispatcher: Dispatcher,
        standing: Standing,
        metrics: Metrics,
    ) -> None:
        self._codec = config.codec.delta
        self._rules = Rules(config.screening, config.aggregation)
        self._compares = config.screening.enabled or config.aggregation.clip > 0
        self._num_elements = num_elements
        self._blobs = blobs
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._standing = standing
        self._metrics = metrics
        self._sketcher = Sketcher(secrets.randbits(62))
        self._sketches: dict[LeaseId, Future[Sketch]] = {}
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="sketches")

    def came(self, contribution: Contribution) -> None:
        """One that the ledger has: it is looked at beside the round."""
        if self._compares:
            self._look_at(contribution)

    def _look_at(self, contribution: Contribution) -> None:
        if contribution.lease_id not in self._sketches:
            self._sketches[contribution.lease_id] = self._executor.submit(self._sketch, contribution)

    async def decide(self, round_number: int) -> None:
        """Have it in the ledger how each contribution of a closed round counts.

        Raises `IntegrityError` if one cannot be read, and `StorageError`; then the same call may be repeated.
        """
        contributions = await self._ledger.run(Ledger.contributions, round_number)
        if not self._compares and not any(self._standing.is_banned(c.worker_id) for c in contributions):
            return
        decided = {verdict.lease_id for verdict in await self._ledger.run(Ledger.verdicts, round_number)}
        if all(contribution.lease_id in decided for contribution in contributions):
            return  # before a restart
        given = await self._given(sorted(contributions, key=lambda c: c.contribution_id), round_number)
        firsts = [one for one in given if one.contribution.weight > 0]
        verdicts = await asyncio.get_running_loop().run_in_executor(self._executor, decide, firsts, self._rules)
        verdicts += [uncounted(one) for one in given if one.contribution.weight == 0]
        await self._store(verdicts, {one.contribution.lease_id: one.contribution for one in given})
        self._sketches.clear()

    async def refuse(self, lease: Lease, fault: Fault) -> None:
        """A delta was refused when it came, and not for what the line did to it: it is noted, and the data goes to others."""
        verdict = Verdict(lease.lease_id, lease.worker_id, lease.round_number, 0.0, 0.0, 0.0, None, fault)
        await self._dispatcher.release(lease.worker_id, lease.lease_id)
        await self._ledger.run(Ledger.add_verdicts, [verdict])
        self._standing.learn([verdict])

    def close(self) -> None:
        """Leave what has not been looked at."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    async def _given(self, contributions: Sequence[Contribution], round_number: int) -> list[Given]:
        copies = await self._ledger.run(Ledger.seen_before, round_number)
        for contribution in contributions:
            self._look_at(contribution)
        sketches = {c.lease_id: self._sketches[c.lease_id] for c in contributions}
        try:
            found = {lease_id: await asyncio.wrap_future(future) for lease_id, future in sketches.items()}
        except IntegrityError:
            self._sketches.clear()  # what could not be read is read again
            raise
        return [
            Given(
                c,
                found[c.lease_id],
                self._standing.is_newcomer(c.worker_id),
                c.lease_id in copies,
                self._standing.is_banned(c.worker_id),
            )
            for c in contributions
        ]

    async def _store(self, verdicts: Sequence[Verdict], contributions: dict[LeaseId, Contribution]) -> None:
        await self._dispatcher.count(verdicts, {lease_id: c.images for lease_id, c in contributions.items()})
        self._standing.learn(verdicts)
        for verdict in verdicts:
            if verdict.fault is Fault.NONE:
                continue
            self._metrics.left_out.labels(reason=verdict.fault.value).inc()
            _log.warning(
                "contribution_left_out",
                round=verdict.round_number,
                worker=verdict.worker_id,
                lease=verdict.lease_id,
                images=contributions[verdict.lease_id].images,
                reason=verdict.fault.value,
                norm=verdict.norm,
                cosine=verdict.cosine,
            )

    def _sketch(self, contribution: Contribution) -> Sketch:
        with self._blobs.open(contribution.sha256) as data:
            try:
                return self._sketcher.sketch(VectorReader(data, self._codec, self._num_elements))
            except DecodeError as error:
                raise IntegrityError(
                    f"contribution {contribution.contribution_id} cannot be decoded ({error}): restore its blob from a backup"
                ) from None
