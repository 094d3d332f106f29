"""The leases of closed rounds and the ways to versions, as anybody may read them (`diffusion_at_home.audit.records`).

One bounded query a page, one after another: what the ledger is asked for by the run waits behind one of them at most. Pages are
kept for as long as their readers may keep them, the latest asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from coordinator.lease_queries import HandedIn, LeaseQueries
from coordinator.ledger_thread import LedgerThread
from coordinator.records import Version
from coordinator.versions import Versions
from coordinator.web.kept import Kept
from diffusion_at_home import __version__
from diffusion_at_home.audit.records import (
    MAX_STEPS,
    PAGE_LEASES,
    LeasePage,
    LeaseRecord,
    RangeRecord,
    RoundPage,
    StepKind,
    StepRecord,
    VersionRecord,
)
from diffusion_at_home.clock import Clock
from diffusion_at_home.config.run import Codec
from diffusion_at_home.kept_weights import KeptWeights

_KEPT_PAGES: Final = 16

PAGE_SECONDS: Final = 60
"""For which a page may be older than the ledger."""


class PublicLeases:
    """Of one run; on the coordinator's loop."""

    def __init__(self, *, run_id: str, codec: Codec, versions: Versions, ledger: LedgerThread, clock: Clock) -> None:
        """`codec` is the one of deltas."""
        self._run_id = run_id
        self._codec = codec
        self._versions = versions
        self._ledger = ledger
        self._turn = asyncio.Lock()
        self._pages = Kept(self._read_page, seconds=PAGE_SECONDS, most=_KEPT_PAGES, clock=clock)

    async def round_page(self, number: int, after: int) -> str | None:
        """The `RoundPage` as JSON; None unless round `number` is closed."""
        if not 1 <= number <= self._versions.newest.version or after.bit_length() > 63:
            return None
        return await self._pages.get((number, after))

    async def lease_page(self, lease_id: int) -> str | None:
        """The `LeasePage` as JSON; None unless something was handed in for it in a round that is closed."""
        async with self._turn:
            found = await self._ledger.run(LeaseQueries.handed_in_for, lease_id)
        if found is None or found.round_number > self._versions.newest.version:
            return None
        return LeasePage(run_id=self._run_id, software=__version__, lease=self._record(found)).model_dump_json()

    def version(self, number: int) -> VersionRecord | None:
        """A version and the way to it; None unless it is published."""
        if not 0 <= number <= self._versions.newest.version:
            return None
        versions = self._versions
        start = way_start(number, versions.history, versions.snapshots, versions.updates_gone)
        steps = [] if start is None else _steps(versions.history, start, number, versions.snapshots)
        return VersionRecord(
            run_id=self._run_id,
            version=number,
            images=versions.history[number].images,
            weights_digest=versions.history[number].weights_digest,
            reachable=start is not None,
            from_seed=start == 0 and start not in versions.snapshots,
            steps=tuple(steps),
        )

    async def _read_page(self, which: tuple[int, int]) -> str:
        number, after = which
        async with self._turn:
            found = await self._ledger.run(LeaseQueries.handed_in, number, after, PAGE_LEASES + 1)
        shown = found[:PAGE_LEASES]
        page = RoundPage(
            run_id=self._run_id,
            round=number,
            software=__version__,
            leases=tuple(self._record(one) for one in shown),
            next=shown[-1].lease_id if len(found) > PAGE_LEASES else None,
        )
        return page.model_dump_json()

    def _record(self, one: HandedIn) -> LeaseRecord:
        return LeaseRecord(
            lease_id=one.lease_id,
            round=one.round_number,
            worker_id=one.worker_id,
            public_key=one.public_key.hex(),
            base_version=one.base_version,
            base_digest=self._versions.history[one.base_version].weights_digest,
            ranges=tuple(
                RangeRecord(epoch=part.epoch, shard=part.shard, start=part.start, count=part.count)
                for part in one.ranges
            ),
            seed=one.seed,
            learning_rate=one.learning_rate,
            codec=self._codec,
            images=one.images,
            sha256=one.sha256,
            size_bytes=one.size_bytes,
            signature=one.signature,
            weights=KeptWeights(one.weights) if one.weights else None,
            weight=one.weight,
            left_out=one.fault.value,
            residual_before=one.residual_before,
            residual_after=one.residual_after,
            shown_sha256=one.shown_sha256,
            shown_bytes=one.shown_bytes,
            second_of=one.second_of,
        )


def way_start(version: int, history: Sequence[Version], snapshots: Sequence[int], updates_gone: int) -> int | None:
    """The version from which the fewest updates lead to `version`: one that has a snapshot, or 0, which the seed makes.

    Args:
        version: a published one.
        history: all published ones; no update leads to one that went back.
        snapshots: the versions that have one, ascending.
        updates_gone: all updates that come after this version's are kept.
    """
    start = max((snapshot for snapshot in snapshots if snapshot <= version), default=0)
    if version - start >= MAX_STEPS or (start < version and start < updates_gone):
        return None
    went_back = any(one.back_to is not None for one in history[start + 1 : version + 1])
    return None if went_back else start


def _steps(history: Sequence[Version], start: int, version: int, snapshots: Sequence[int]) -> list[StepRecord]:
    steps = [] if start not in snapshots else [_step(history[start], StepKind.SNAPSHOT)]
    return steps + [_step(one, StepKind.UPDATE) for one in history[start + 1 : version + 1]]


def _step(version: Version, kind: StepKind) -> StepRecord:
    is_snapshot = kind is StepKind.SNAPSHOT
    return StepRecord(
        version=version.version,
        kind=kind,
        sha256=version.snapshot_sha256 if is_snapshot else version.update_sha256,
        size_bytes=version.snapshot_bytes if is_snapshot else version.update_bytes,
        weights_digest=version.weights_digest,
    )
