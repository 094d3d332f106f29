"""From a Submit's stream to a receipt: receive, screen, store, accept, in that order, each durable before the next.

Where deltas carry error feedback, a first Submit ends with a challenge, and the second one, which answers it, with the receipt.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, ParamSpec

from coordinator.blobs import BlobStore
from coordinator.challenges import Challenge, Challenges, put_aside_shown
from coordinator.dispatcher import Dispatcher
from coordinator.hand_in import Work, check_chain, same_or_refused
from coordinator.in_thread import in_thread
from coordinator.metrics import Metrics
from coordinator.receipts import ReceiptSigner
from coordinator.records import Contribution, Fault, Lease
from coordinator.refused import Refused
from coordinator.round_screening import RoundScreening
from coordinator.screening import Expected, check_sha256, screen_file, screen_header
from coordinator.uploads import Uploads
from diffusion_at_home import events
from diffusion_at_home.audit.residual import ShownLeaf
from diffusion_at_home.audit.shown import write_shown
from diffusion_at_home.kept_weights import from_wire
from diffusion_at_home.rpc import coordinator_pb2 as pb

_FAULTS: Final = {pb.REFUSAL_NOT_FINITE: Fault.NOT_FINITE, pb.REFUSAL_WRONG_RESIDUAL: Fault.MISFIT}
"""What a worker is held to have done wrong, by what it was refused for."""

P = ParamSpec("P")
_log = events.logger("coordinator")


class Intake:
    """Takes contributions in."""

    def __init__(
        self,
        *,
        expected: Expected,
        uploads: Uploads,
        blobs: BlobStore,
        dispatcher: Dispatcher,
        round_screening: RoundScreening,
        receipts: ReceiptSigner,
        metrics: Metrics,
    ) -> None:
        self._receipts = receipts
        self._round_screening = round_screening
        self._expected = expected
        self._challenges = Challenges(expected)
        self._uploads = uploads
        self._blobs = blobs
        self._dispatcher = dispatcher
        self._disk = uploads.disk
        self._metrics = metrics
        self._screening = ThreadPoolExecutor(max_workers=2, thread_name_prefix="screening")

    def received_bytes(self, lease: Lease, sha256: str) -> int:
        """How much of a contribution is here."""
        check_sha256(sha256)
        return self._uploads.received_bytes(lease.lease_id, sha256)

    async def take(
        self, lease: Lease, header: pb.SubmitHeader, requests: AsyncIterator[pb.SubmitRequest]
    ) -> Contribution | Challenge:
        """The receipt for what `requests` brings, the same one again for the same bytes; or what has to be shown first.

        Raises `Refused`.
        """
        try:
            return await self._take(lease, header, requests)
        except Refused:
            # A call that was given up may have been accepted meanwhile: then this one, of the same bytes, has its receipt.
            before = await self._dispatcher.receipt(lease.lease_id)
            if before is None or before.sha256 != header.sha256:
                raise
            return before

    def reply(self, receipt: Contribution | Challenge) -> pb.SubmitReply:
        """The receipt as it is sent, signed: the same again whenever it is asked for; or the challenge."""
        if isinstance(receipt, Challenge):
            return pb.SubmitReply(challenge=receipt.message())
        return pb.SubmitReply(
            contribution_id=receipt.contribution_id,
            images=receipt.images,
            round=receipt.round_number,
            signature=self._receipts.sign(receipt),
        )

    async def _take(
        self, lease: Lease, header: pb.SubmitHeader, requests: AsyncIterator[pb.SubmitRequest]
    ) -> Contribution | Challenge:
        before = await self._dispatcher.receipt(lease.lease_id)
        if before is not None:
            return same_or_refused(before, header.sha256)
        self._dispatcher.check_acceptable(lease)
        screen_header(header, lease, self._expected)
        if header.residual_after:
            check_chain(header.residual_before.hex(), await self._dispatcher.newest_residual(lease.worker_id))
        with self._metrics.problems.writing("contributions"):
            receipt = await self._store(lease, header, requests)
        if isinstance(receipt, Challenge):
            return receipt
        self._round_screening.came(receipt)
        self._metrics.images.inc(receipt.images)
        self._metrics.contributions.inc()
        self._metrics.uplink.inc(receipt.size_bytes)
        _log.info(
            "contribution_accepted",
            round=receipt.round_number,
            worker=receipt.worker_id,
            lease=receipt.lease_id,
            images=receipt.images,
            loss=round(receipt.mean_loss, 5),
        )
        return receipt

    async def _store(
        self, lease: Lease, header: pb.SubmitHeader, requests: AsyncIterator[pb.SubmitRequest]
    ) -> Contribution | Challenge:
        challenge, shown = self._challenges.of(header), list[ShownLeaf]()
        requests = put_aside_shown(self._keeping_alive(lease, requests), shown, self._expected.shown_leaves)
        async with self._uploads.receive(header, requests) as path:
            if challenge is None:
                await self._refusing(lease, self._screen, path, header.sha256)
            elif shown:
                await self._refusing(lease, self._challenges.check, path, challenge, shown)
            # Again, as receiving may have taken long: what cannot count must not become a blob.
            self._dispatcher.check_acceptable(await self._dispatcher.owned(lease.worker_id, lease.lease_id))
            if self._expected.shows and (challenge is None or not shown):
                return challenge or self._challenges.draw(header)
            return await self._accept(lease, header, path, write_shown(shown) if challenge else b"")

    async def _accept(self, lease: Lease, header: pb.SubmitHeader, path: Path, shown: bytes) -> Contribution:
        """Blobs first, then the ledger; `shown` is empty where nothing is."""
        self._challenges.forget(lease.lease_id)  # what comes again once the file has gone is screened again
        shown_sha256 = hashlib.sha256(shown).hexdigest() if shown else ""
        weights = from_wire(header.weights)
        assert weights is not None, "its signature was checked"
        work = Work(
            lease,
            header.sha256,
            header.size_bytes,
            header.images,
            header.mean_loss,
            header.train_ms,
            header.signature.hex(),
            weights,
            header.residual_before.hex(),
            header.residual_after.hex(),
            shown_sha256,
            len(shown),
        )
        with self._blobs.arriving(header.sha256), self._blobs.arriving(shown_sha256):
            if shown:
                await in_thread(self._disk, self._blobs.add_bytes, shown)
            await in_thread(self._disk, self._blobs.add_file, path, header.sha256)
            return await self._dispatcher.accept(work)

    async def _refusing(self, lease: Lease, check: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """`check` in a thread; what it refuses for no fault of the line is noted. Raises `Refused`."""
        try:
            await in_thread(self._screening, check, *args, **kwargs)
        except Refused as refused:
            if (fault := _FAULTS.get(refused.refusal)) is not None:
                self._challenges.forget(lease.lease_id)
                await self._round_screening.refuse(lease, fault)
            raise

    async def _keeping_alive(
        self, lease: Lease, requests: AsyncIterator[pb.SubmitRequest]
    ) -> AsyncIterator[pb.SubmitRequest]:
        """What comes while the lease may still count: nobody else's place is taken by what cannot."""
        async for request in requests:
            if not self._dispatcher.may_count(lease.lease_id):
                self._dispatcher.check_acceptable(await self._dispatcher.owned(lease.worker_id, lease.lease_id))
            self._dispatcher.touch(lease.lease_id)
            yield request

    def _screen(self, path: Path, sha256: str) -> None:
        try:
            screen_file(path, sha256, self._expected)
        except Refused:
            path.unlink(missing_ok=True)
            raise

    def tidy(self) -> None:
        """Delete what has come in for leases that cannot count any more."""
        self._uploads.forget_all_but(self._dispatcher.expected())
        self._challenges.forget_all_but(self._dispatcher.expected())

    def close(self) -> None:
        """Finish what is being screened."""
        self._screening.shutdown(wait=True)
