"""Volunteers that speak the whole protocol and compute nothing, many of them in one process.

Each has its own key, connection and session. In a round it takes a lease, fetches what leads to the base and throws it away, and
hands in a made-up delta in int8. Of a model of many chunks no two have the same one: the chunks stand in another order.
"""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Final

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.config.run import Codec
from diffusion_at_home.errors import RetryCall
from diffusion_at_home.identity import Handed, Identity
from diffusion_at_home.kept_weights import KeptWeights, to_wire
from diffusion_at_home.lease_terms import LeaseTerms
from diffusion_at_home.rpc import coordinator_pb2 as pb
from diffusion_at_home.runinfo import RunInfo
from diffusion_at_home.wire.vector import encode_chunks, write_vector
from worker.client import CoordinatorClient
from worker.http_line import open_http
from worker.run_address import RunAddress, find_run
from worker.session import Introduction, Session, Untold

_DEADLINE: Final = timedelta(minutes=10)
_WAIT_MS: Final = 20_000
_PAUSE_SECONDS: Final = 0.5
_NEVER: Final = threading.Event()


class Delta:
    """An encoded vector whose whole chunks may stand in any order."""

    def __init__(self, num_elements: int) -> None:
        vector = 1e-3 * torch.randn(num_elements, generator=torch.Generator().manual_seed(0))
        *self._whole, self._last = list(encode_chunks(Codec.INT8, vector))
        out = io.BytesIO()
        write_vector(out, Codec.INT8, num_elements, iter([*self._whole, self._last]))
        self._head = out.getvalue()[: -sum(map(len, [*self._whole, self._last]))]

    def parts(self, first: int) -> list[bytes]:
        """From whole chunk `first` on, then those before it; no copies."""
        turned = [*self._whole[first:], *self._whole[:first]]
        return [self._head, *turned, self._last]


class Volunteer:
    """One of them."""

    def __init__(self, address: RunAddress, info: RunInfo, parts: Sequence[bytes], stack: ExitStack) -> None:
        self._address = address
        self._parts = parts
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        self._sha256 = digest.hexdigest()
        self._http = stack.enter_context(open_http())
        client = CoordinatorClient(address.grpc_target(info.grpc_port), address.trust(info))
        stack.callback(client.close)
        identity = Identity(Ed25519PrivateKey.generate())
        hardware = pb.Hardware(device="cpu", num_devices=1)
        self._session = Session(
            client=client,
            identity=identity,
            run_id=info.run_id,
            introduction=Introduction("", hardware),
            stamp_ms=lambda: time.time_ns() // 1_000_000,
            line=Untold(),
        )
        self._session.open(_NEVER)
        self._held: int | None = None

    def work(self, rounds: int) -> None:
        """Until it has handed in so many times."""
        for _ in range(rounds):
            grant = self._lease()
            for blob in grant.catch_up:
                self._fetch(blob.sha256)
            self._held = grant.base_version
            self._hand_in(grant)

    def _lease(self) -> pb.LeaseGrant:
        while True:
            request = pb.LeaseRequest(
                protocol_version=PROTOCOL_VERSION,
                images_per_second=1.0,
                held_version=self._held or 0,
                has_weights=self._held is not None,
                wait_ms=_WAIT_MS,
            )
            reply = self._session.lease(request, _NEVER)
            if reply.WhichOneof("outcome") == "grant":
                return reply.grant

    def _fetch(self, sha256: str) -> None:
        with self._http.stream("GET", self._address.blob_url(sha256)) as response:
            response.raise_for_status()
            for _ in response.iter_raw():
                pass

    def _hand_in(self, grant: pb.LeaseGrant) -> None:
        while True:
            try:
                self._session.submit(lambda: self._submit(grant), _DEADLINE)
            except RetryCall:  # too many at once
                _NEVER.wait(_PAUSE_SECONDS)
            else:
                return

    def _submit(self, grant: pb.LeaseGrant) -> Iterator[pb.SubmitRequest]:
        terms, kept = LeaseTerms.of_grant(grant), KeptWeights.EXACT
        handed = Handed(self._session.run_id, grant.lease_id, terms.sha256, kept, self._sha256, grant.quota_images)
        header = pb.SubmitHeader(
            protocol_version=PROTOCOL_VERSION,
            lease_id=grant.lease_id,
            sha256=self._sha256,
            size_bytes=sum(map(len, self._parts)),
            images=grant.quota_images,
            train_ms=1,
            mean_loss=0.5,
            signature=self._session.signature(handed),
            weights=to_wire(kept),
        )
        yield pb.SubmitRequest(header=header)
        data = b"".join(self._parts)
        most = self._session.max_chunk_bytes
        yield from (pb.SubmitRequest(chunk=data[start : start + most]) for start in range(0, len(data), most))


def work(url: str, *, volunteers: int, rounds: int) -> int:
    """Have so many volunteers hand in, all at once, in each of so many rounds; returns the parameters of the model."""
    address = RunAddress.parse(url)
    with open_http() as http:
        info = find_run(address, http)
    delta = Delta(info.num_parameters)
    with ExitStack() as stack, ThreadPoolExecutor(volunteers) as threads:
        made = [Volunteer(address, info, delta.parts(index), stack) for index in range(volunteers)]
        for done in [threads.submit(volunteer.work, rounds) for volunteer in made]:
            done.result()
    return info.num_parameters
