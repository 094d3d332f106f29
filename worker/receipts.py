"""The receipts a worker has: one JSON object a line, a file a run, only ever added to.

A receipt is on the disk before what it is for leaves the outbox. It may be there twice, where a process died between the two.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from diffusion_at_home.errors import RetryCall, storage_errors
from diffusion_at_home.identity import WorkerId
from diffusion_at_home.receipt import Receipt, Received
from diffusion_at_home.rpc.coordinator_pb2 import SubmitReply
from worker.outbox import Contribution


class Receipts:
    """Those of one run to one worker."""

    def __init__(self, path: Path, *, run_id: str, worker_id: WorkerId, public_key: str) -> None:
        """`path` is made with the first one; `public_key` (hex) is the run's, by its specification."""
        self._path = path
        self._run_id = run_id
        self._worker_id = worker_id
        self._public_key = public_key

    def read(self, contribution: Contribution, reply: SubmitReply) -> Receipt:
        """The receipt that `reply` is for `contribution`. Raises `RetryCall` if it is none: the next try may bring it."""
        try:
            receipt = Receipt(
                received=Received(
                    run_id=self._run_id,
                    contribution_id=reply.contribution_id,
                    worker_id=self._worker_id,
                    lease_id=contribution.lease_id,
                    sha256=contribution.sha256,
                    images=reply.images,
                    round=reply.round,
                ),
                public_key=self._public_key,
                signature=reply.signature.hex(),
            )
        except ValidationError:
            raise RetryCall("the coordinator's receipt is out of bounds") from None
        if reply.images > contribution.images:
            raise RetryCall("the coordinator's receipt is out of bounds")
        if not receipt.holds:
            raise RetryCall("the coordinator's receipt is not signed by the run's key")
        return receipt

    def keep(self, receipt: Receipt) -> None:
        """Add it, durable. Raises `StorageError`."""
        line = receipt.model_dump_json().encode() + b"\n"
        with storage_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab+") as file:
                if not _ends_a_line(file):
                    line = b"\n" + line  # a process died in mid-line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())


def _ends_a_line(file: BinaryIO) -> bool:
    """Whether a further line may follow what is in `file`."""
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
