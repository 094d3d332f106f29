"""Volunteers that hand in one contribution after the other whatever happens, and what their receipts must mean."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import grpc

from coordinator.ledger import Ledger
from coordinator.run_folder import RunFolder
from diffusion_at_home.rpc import coordinator_pb2 as pb
from tests.integration.live_run import Volunteer, encoded, refusal

T = TypeVar("T")


class Stubborn:
    """A volunteer that hands in one contribution after the other, however often the coordinator is gone."""

    def __init__(self, volunteer: Volunteer, over: threading.Event) -> None:
        self.receipts: list[pb.SubmitReply] = []
        self.refusals: list[str] = []
        self._volunteer = volunteer
        self._over = over
        self._thread = threading.Thread(target=self._work)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _work(self) -> None:
        while not self._over.is_set():
            reply = self._insist(lambda: self._volunteer.ask(wait_ms=1000))
            if reply is not None and reply.WhichOneof("outcome") == "grant":
                self._hand_in(reply.grant)

    def _hand_in(self, grant: pb.LeaseGrant) -> None:
        volunteer, data = self._volunteer, encoded(self._volunteer.run, 0.001 * grant.lease_id)
        receipt = self._insist(lambda: volunteer.submit(grant, data, offset=volunteer.offset(grant.lease_id, data)))
        if receipt is not None:
            self.receipts.append(receipt)

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
                self._over.wait(0.02)
        return None


def assert_each_counts_once(folder: RunFolder, receipts: list[pb.SubmitReply]) -> None:
    ledger = Ledger(folder.ledger, read_only=True)
    rounds = range(1, ledger.newest_version().version + 2)
    counted = [(c.contribution_id, c.images, c.round_number) for n in rounds for c in ledger.contributions(n)]
    ledger.close()
    for receipt in receipts:
        assert counted.count((receipt.contribution_id, receipt.images, receipt.round)) == 1
