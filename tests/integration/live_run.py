"""A real coordinator on loopback, and volunteers that speak the protocol to it without training anything."""

from __future__ import annotations

import asyncio
import hashlib
import io
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import grpc
import httpx2
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.app import Coordinator
from coordinator.blobs import BlobStore, read_spec
from coordinator.ledger import Ledger
from coordinator.run_folder import RunFolder
from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.config.run import Codec
from diffusion_at_home.identity import Handed, Identity
from diffusion_at_home.kept_weights import KeptWeights, from_wire, to_wire
from diffusion_at_home.lease_terms import LeaseTerms
from diffusion_at_home.model.build import build_model
from diffusion_at_home.refusals import REFUSAL_METADATA
from diffusion_at_home.rpc import coordinator_pb2 as pb
from diffusion_at_home.rpc.coordinator_pb2_grpc import CoordinatorStub
from diffusion_at_home.tls import split_pin
from diffusion_at_home.wire.layout import Layout
from diffusion_at_home.wire.vector import encode_chunks, write_vector

DEADLINE_SECONDS = 20.0

_RECONNECT_AT_ONCE = [(f"grpc.{which}_reconnect_backoff_ms", 100) for which in ("initial", "min", "max")]


class LiveRun:
    """A coordinator that serves, as everybody else sees it."""

    def __init__(self, address: str, folder: RunFolder) -> None:
        self.address = address
        self.url, self.pin = split_pin(address)
        self.folder = folder
        self.grpc_target = f"127.0.0.1:{self.get('/run.json').json()['grpc_port']}"

    def get(self, path: str, **headers: str) -> httpx2.Response:
        # Without `verify`, each call would read all certificates of this machine.
        return httpx2.get(self.url + path, headers=headers, timeout=DEADLINE_SECONDS, verify=False)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/status.json").json()
        return found

    def wait_for_version(self, version: int) -> dict[str, Any]:
        """The status once `version` is published."""
        deadline, pause = time.monotonic() + DEADLINE_SECONDS, threading.Event()
        while (status := self.status())["version"] < version:
            assert time.monotonic() < deadline, f"version {version} is not published: {status}"
            pause.wait(0.02)
        return status


@contextmanager
def serving(folder: RunFolder) -> Iterator[LiveRun]:
    """The run in `folder`, served from a thread of this process; what it died of is raised at the end."""
    ready, server = threading.Event(), _Server(folder)
    thread = threading.Thread(target=server.main, args=(ready,), name="coordinator")
    with folder.locked():
        thread.start()
        ready.wait(DEADLINE_SECONDS)
        try:
            yield server.live_run()
        finally:
            server.stop()
            thread.join()
            server.raise_if_dead()


class _Server:
    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._url = ""
        self._error: BaseException | None = None

    def main(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self._serve(ready))
        except BaseException as error:  # noqa: BLE001 -- a background task's supervisor
            self._error = error
        finally:
            ready.set()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        coordinator = Coordinator(self._folder)

        def on_ready(url: str) -> None:
            self._url = url
            ready.set()

        server = coordinator.server.model_copy(update={"http_port": 0, "grpc_port": 0})
        try:
            await coordinator.serve(server, stop=self._stop, on_ready=on_ready, exit_when_complete=False)
        finally:
            coordinator.close()

    def live_run(self) -> LiveRun:
        self.raise_if_dead()
        return LiveRun(self._url, self._folder)

    def stop(self) -> None:
        if self._loop is not None and self._stop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)

    def raise_if_dead(self) -> None:
        if self._error is not None:
            raise self._error


class Volunteer:
    """One key with a session; every call is the bare one of the protocol."""

    def __init__(self, run: LiveRun) -> None:
        self.run = run
        self.identity = Identity(Ed25519PrivateKey.generate())
        self.channel = grpc.insecure_channel(run.grpc_target, options=_RECONNECT_AT_ONCE)
        self.stub = CoordinatorStub(self.channel)  # type: ignore[no-untyped-call]  # generated
        self.signed_at_ms = 0
        self.token = ""
        self.run_id: str = run.get("/run.json").json()["run_id"]

    def join_request(self, **changes: Any) -> pb.JoinRequest:
        self.signed_at_ms += 1
        request = pb.JoinRequest(
            protocol_version=PROTOCOL_VERSION,
            public_key=self.identity.public_key,
            signed_at_ms=self.signed_at_ms,
            signature=self.identity.sign_join(self.run_id, self.signed_at_ms),
            display_name="a volunteer",
            hardware=pb.Hardware(device="cpu", num_devices=1),
            software_version="0.1.0",
        )
        request.MergeFrom(pb.JoinRequest(**changes))
        return request

    def join(self) -> pb.JoinReply:
        reply: pb.JoinReply = self.stub.Join(self.join_request(), timeout=DEADLINE_SECONDS)
        self.token = reply.session_token
        return reply

    def call(self, method: str, request: Any) -> Any:
        """`method` with this volunteer's token and the protocol's version."""
        if hasattr(request, "protocol_version") and request.protocol_version == 0:
            request.protocol_version = PROTOCOL_VERSION
        metadata = (("authorization", f"Bearer {self.token}"),)
        return getattr(self.stub, method)(request, metadata=metadata, timeout=DEADLINE_SECONDS)

    def ask(self, **fields: Any) -> pb.LeaseReply:
        reply: pb.LeaseReply = self.call("Lease", pb.LeaseRequest(**fields))
        return reply

    def lease(self, **fields: Any) -> pb.LeaseGrant:
        reply = self.ask(**({"wait_ms": 10_000} | fields))
        assert reply.WhichOneof("outcome") == "grant", reply
        return reply.grant

    def beat(self, lease_id: int) -> pb.HeartbeatReply:
        reply: pb.HeartbeatReply = self.call("Heartbeat", pb.HeartbeatRequest(lease_id=lease_id))
        return reply

    def offset(self, lease_id: int, data: bytes) -> int:
        request = pb.SubmitOffsetRequest(lease_id=lease_id, sha256=hashlib.sha256(data).hexdigest())
        received: int = self.call("SubmitOffset", request).received_bytes
        return received

    def release(self, lease_id: int, reason: str = "stopping") -> None:
        self.call("Release", pb.ReleaseRequest(lease_id=lease_id, reason=reason))

    def submit(self, grant: pb.LeaseGrant, data: bytes, **changes: Any) -> pb.SubmitReply:
        """Hand in `data`; `changes` are the header's lies, and `upto` ends the stream early."""
        upto = changes.pop("upto", len(data))
        header = self.header(grant, data, **changes)
        chunks = [data[start : min(start + 30_000, upto)] for start in range(header.offset, upto, 30_000)]
        return self.send([pb.SubmitRequest(header=header), *(pb.SubmitRequest(chunk=chunk) for chunk in chunks)])

    def header(self, grant: pb.LeaseGrant, data: bytes, **lies: Any) -> pb.SubmitHeader:
        """Signed as it is."""
        honest: dict[str, Any] = {
            "protocol_version": PROTOCOL_VERSION,
            "lease_id": grant.lease_id,
            "sha256": hashlib.sha256(data).hexdigest(),
            "size_bytes": len(data),
            "images": grant.quota_images,
            "mean_loss": 0.5,
            "weights": to_wire(KeptWeights.EXACT),
        }
        header = pb.SubmitHeader(**(honest | {"signature": b""} | lies))
        if not header.signature:
            header.signature = self.identity.sign_contribution(self.handed(grant, header))
        return header

    def handed(self, grant: pb.LeaseGrant, header: pb.SubmitHeader, **lies: Any) -> Handed:
        """What is signed of it."""
        terms, kept = LeaseTerms.of_grant(grant), from_wire(header.weights)
        assert kept is not None
        residuals = header.residual_before.hex(), header.residual_after.hex()
        signed = Handed(self.run_id, header.lease_id, terms.sha256, kept, header.sha256, header.images, *residuals)
        return replace(signed, **lies)

    def send(self, parts: Sequence[pb.SubmitRequest]) -> pb.SubmitReply:
        reply: pb.SubmitReply = self.call("Submit", iter(parts))
        return reply


@contextmanager
def volunteers(run: LiveRun, count: int) -> Iterator[list[Volunteer]]:
    """`count` of them, joined."""
    made = [Volunteer(run) for _ in range(count)]
    try:
        for volunteer in made:
            volunteer.join()
        yield made
    finally:
        for volunteer in made:
            volunteer.channel.close()


@cache
def num_parameters(folder: RunFolder) -> int:
    """Of the run's model."""
    ledger = Ledger(folder.ledger, read_only=True)
    spec = read_spec(BlobStore(folder.blobs, folder.staging), ledger.spec_sha256())
    ledger.close()
    config = spec.config
    return Layout.of(build_model(config.model, config.objective, spec.tokenizer.encode(), config.run.seed)).num_elements


def encoded(run: LiveRun, value: float = 0.0, codec: Codec = Codec.INT8) -> bytes:
    """A delta whose every element is `value`."""
    return encoded_delta(torch.full((num_parameters(run.folder),), value), codec)


def encoded_delta(delta: torch.Tensor, codec: Codec = Codec.INT8) -> bytes:
    """`delta` as it is handed in."""
    buffer = io.BytesIO()
    write_vector(buffer, codec, len(delta), encode_chunks(codec, delta))
    return buffer.getvalue()


def refusal(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    """The status and the named reason of a refused call."""
    assert isinstance(error, grpc.Call)
    trailing = {key: str(value) for key, value in error.trailing_metadata() or ()}
    return error.code(), trailing.get(REFUSAL_METADATA, "")
