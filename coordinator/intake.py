"""From a Submit's stream to a receipt: receive, screen, store, accept, in that order, each durable before the next."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from coordinator.blobs import BlobStore
from coordinator.dispatcher import Dispatcher
from coordinator.hand_in import Work, same_or_refused
from coordinator.in_thread import in_thread
from coordinator.metrics import Metrics
from coordinator.receipts import ReceiptSigner
from coordinator.records import Contribution, Fault, Lease
from coordinator.refused import Refused
from coordinator.round_screening import RoundScreening
from coordinator.screening import Expected, check_sha256, screen_file, screen_header
from coordinator.uploads import Uploads
from diffusion_at_home import events
from diffusion_at_home.rpc import coordinator_pb2 as pb

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
    ) -> Contribution:
        """The receipt for what `requests` brings; the same one again for the same bytes. Raises `Refused`."""
        try:
            return await self._take(lease, header, requests)
        except Refused:
            # A call that was given up may have been accepted meanwhile: then this one, of the same bytes, has its receipt.
            before = await self._dispatcher.receipt(lease.lease_id)
            if before is None or before.sha256 != header.sha256:
                raise
            return before

    def reply(self, receipt: Contribution) -> pb.SubmitReply:
        """The receipt as it is sent, signed: the same again whenever it is asked for."""
        return pb.SubmitReply(
            contribution_id=receipt.contribution_id,
            images=receipt.images,
            round=receipt.round_number,
            signature=self._receipts.sign(receipt),
        )

    async def _take(
        self, lease: Lease, header: pb.SubmitHeader, requests: AsyncIterator[pb.SubmitRequest]
    ) -> Contribution:
        before = await self._dispatcher.receipt(lease.lease_id)
        if before is not None:
            return same_or_refused(before, header.sha256)
        self._dispatcher.check_acceptable(lease)
        screen_header(header, lease, self._expected)
        with self._metrics.problems.writing("contributions"):
            receipt = await self._store(lease, header, requests)
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
    ) -> Contribution:
        async with self._uploads.receive(header, self._keeping_alive(lease, requests)) as path:
            try:
                await in_thread(self._screening, self._screen, path, header.sha256)
            except Refused as refused:
                if refused.refusal == pb.REFUSAL_NOT_FINITE:
                    await self._round_screening.refuse(lease, Fault.NOT_FINITE)
                raise
            # Again, as receiving may have taken long: what cannot count must not become a blob.
            self._dispatcher.check_acceptable(await self._dispatcher.owned(lease.worker_id, lease.lease_id))
            work = Work(
                lease,
                header.sha256,
                header.size_bytes,
                header.images,
                header.mean_loss,
                header.train_ms,
                header.signature.hex(),
            )
            with self._blobs.arriving(header.sha256):
                await in_thread(self._disk, self._blobs.add_file, path, header.sha256)
                return await self._dispatcher.accept(work)

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

    def close(self) -> None:
        """Finish what is being screened."""
        self._screening.shutdown(wait=True)
