"""The coordinator is killed again and again at arbitrary moments: every receipt it ever gave counts exactly once."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import grpc

from coordinator.blobs import file_sha256
from coordinator.ledger import Ledger
from coordinator.replay import replay
from coordinator.run_folder import RunFolder
from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME
from diffusion_at_home.rpc import coordinator_pb2 as pb
from tests.faults.coverage import assert_every_sample_once
from tests.faults.processes import house
from tests.integration.live_run import Volunteer, encoded, refusal, volunteers
from tests.unit.tiny_data import tiny_run_folder

KILLS = 8
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


def test_every_receipt_counts_once_wherever_it_is_killed(tmp_path: Path) -> None:
    folder = tiny_run_folder(
        tmp_path,
        "run.total_images=1000000",
        "round.images=48",
        "round.quorum=1.0",  # so that no round closes without somebody
        "lease.probe_steps=1",
        "lease.max_steps=2",
        "evaluation.every_images=48",
        "evaluation.draws=1",
        "checkpoint.every_images=96",
        "checkpoint.sampling_steps=1",
    )
    moments, over = random.Random(7), threading.Event()
    with house(tmp_path) as home:
        process, run = home.coordinator(folder)
        with volunteers(run, 2) as joined:
            workers = [Stubborn(volunteer, over) for volunteer in joined]
            for worker in workers:
                worker.start()
            for _ in range(KILLS):
                over.wait(moments.uniform(0.02, 0.5))
                process.kill()
                process, _ = home.coordinator(folder)
            run.wait_for_version(run.status()["version"] + 1)
            over.set()
            for worker in workers:
                worker.join()
        assert process.terminate() == 0, process.output
    assert [worker.refusals for worker in workers] == [[], []]
    receipts = [receipt for worker in workers for receipt in worker.receipts]
    assert_each_counts_once(folder, receipts)
    assert len(receipts) > KILLS
    assert replay(folder).versions > 1
    assert_every_sample_once(folder)
    assert_checkpoints_are_as_published(folder)


def assert_checkpoints_are_as_published(folder: RunFolder) -> None:
    ledger = Ledger(folder.ledger, read_only=True)
    for checkpoint in ledger.checkpoints():
        manifest = folder.checkpoints / checkpoint.name / MANIFEST_NAME
        assert file_sha256(manifest) == checkpoint.manifest_sha256
    ledger.close()


def assert_each_counts_once(folder: RunFolder, receipts: list[pb.SubmitReply]) -> None:
    ledger = Ledger(folder.ledger, read_only=True)
    rounds = range(1, ledger.newest_version().version + 2)
    counted = [(c.contribution_id, c.images, c.round_number) for n in rounds for c in ledger.contributions(n)]
    ledger.close()
    for receipt in receipts:
        assert counted.count((receipt.contribution_id, receipt.images, receipt.round)) == 1
