"""Volunteers who train nothing and never give up: they work on however often the coordinator is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc
import httpx2

from diffusion_at_home.rpc import coordinator_pb2 as pb
from tests.integration.live_run import LiveRun, Volunteer, encoded, refusal, volunteers

T = TypeVar("T")


class Stubborn:
    """A volunteer that hands in one contribution after the other.

    Now and then it does what a worker does that was killed and started again: it joins anew, or asks for work although it
    holds some, or hands in what it has handed in.
    """

    def __init__(self, volunteer: Volunteer, over: threading.Event, pause_seconds: float) -> None:
        self.receipts: list[pb.SubmitReply] = []
        self.refusals: list[str] = []
        self.progress_at: list[float] = []
        """When there was a grant or a receipt: of the machine's monotonic clock (seconds)."""
        self._volunteer = volunteer
        self._over = over
        self._pause_seconds = pause_seconds
        self._thread = threading.Thread(target=self._work)
        self._leases = 0

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _work(self) -> None:
        while not self._over.is_set():
            self._leases += 1
            self._over.wait(self._pause_seconds)
            if self._leases % 8 == 1:
                self._insist(self._volunteer.join)
            reply = self._insist(lambda: self._volunteer.ask(wait_ms=1000))
            if reply is not None and reply.WhichOneof("outcome") == "grant":
                self.progress_at.append(time.monotonic())
                if self._leases % 8 != 3:  # else it asks again, holding this one
                    self._hand_in(reply.grant)

    def _hand_in(self, grant: pb.LeaseGrant) -> None:
        volunteer, data = self._volunteer, encoded(self._volunteer.run, 0.001 * grant.lease_id)
        receipt = self._insist(lambda: volunteer.submit(grant, data, offset=volunteer.offset(grant.lease_id, data)))
        if receipt is None:
            return
        self.progress_at.append(time.monotonic())
        self.receipts.append(receipt)
        if self._leases % 8 == 5:
            again = self._insist(lambda: volunteer.submit(grant, data, offset=volunteer.offset(grant.lease_id, data)))
            self.refusals += ["another receipt for the same bytes"] if again not in (None, receipt) else []

    def _insist(self, call: Callable[[], T]) -> T | None:
        """The answer; None if it is a refusal that ends the lease, or all is over."""
        while not self._over.is_set():
            try:
                return call()
            except grpc.RpcError as error:
                name = refusal(error)[1]
                if name not in {"", "REFUSAL_WRONG_OFFSET", "REFUSAL_BUSY"}:
                    self.refusals.append(name)
                    return None
            except httpx2.TransportError:
                pass  # where it looks up the run before it joins
            self._over.wait(0.02)
        return None


class Traffic:
    """Some of them at once."""

    def __init__(self, workers: list[Stubborn]) -> None:
        self._workers = workers

    @property
    def receipts(self) -> list[pb.SubmitReply]:
        """All that were ever given."""
        return [receipt for worker in self._workers for receipt in worker.receipts]

    @property
    def refusals(self) -> list[str]:
        """Leases that ended otherwise."""
        return [name for worker in self._workers for name in worker.refusals]

    def progress_after(self, moment: float) -> float | None:
        """When the first grant or receipt after `moment` came, both of the machine's monotonic clock (seconds)."""
        later = [at for worker in self._workers for at in list(worker.progress_at) if at > moment]
        return min(later, default=None)


@contextmanager
def traffic(run: LiveRun, count: int, pause_seconds: float = 0.0) -> Iterator[Traffic]:
    """Within, `count` of them work, each with a pause before a lease; then they stop in the middle of whatever they do."""
    over = threading.Event()
    with volunteers(run, count) as joined:
        workers = [Stubborn(volunteer, over, pause_seconds) for volunteer in joined]
        for worker in workers:
            worker.start()
        try:
            yield Traffic(workers)
        finally:
            over.set()
            for worker in workers:
                worker.join()
