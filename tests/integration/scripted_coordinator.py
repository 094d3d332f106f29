"""A gRPC server on loopback that answers as it is told, and a page that says where it is."""

# ruff: noqa: N802 -- gRPC and http.server find the methods by these names

import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.identity import join_is_signed, worker_id
from diffusion_at_home.receipt import Received
from diffusion_at_home.refusals import MEANINGS, REFUSAL_METADATA, RETRY_AFTER_METADATA
from diffusion_at_home.rpc import coordinator_pb2 as pb
from diffusion_at_home.rpc.coordinator_pb2_grpc import CoordinatorServicer, add_CoordinatorServicer_to_server

RUN_ID = "digits-00000000"
RUN_KEY = Ed25519PrivateKey.generate()
"""That signs receipts."""


class Scripted(CoordinatorServicer):
    """Admits whoever signs; refuses when told to; stores contributions and may cut their stream."""

    def __init__(self) -> None:
        self.refusal: pb.Refusal | None = None
        self.join_refusal: pb.Refusal | None = None
        self.join_lies: dict[str, object] = {}
        """Fields of the reply to Join that are other than they should be."""
        self.receipt = pb.SubmitReply(contribution_id=1, images=64, round=3)
        """But for its signature, which is made for whoever joined last."""
        self.forges = False
        """Receipts, by another key."""
        self.worker = ""
        self.retry_after_ms = ""
        self.token = "first"
        self.num_joins = 0
        self.cut_after_bytes = 0
        """Once: end the stream without a reply when this much has arrived."""
        self.arrived = bytearray()
        self.offsets: list[int] = []
        self.challenge: list[int] = []
        self.shown: list[pb.ShownLeaf] = []
        self.headers: list[pb.SubmitHeader] = []
        self.lease_called = threading.Event()
        self.done = threading.Event()

    def Join(self, request: pb.JoinRequest, context: grpc.ServicerContext) -> pb.JoinReply:
        self.num_joins += 1
        if not join_is_signed(request.public_key, RUN_ID, request.signed_at_ms, request.signature):
            context.abort(grpc.StatusCode.INTERNAL, "not signed")
        if self.join_refusal is not None:
            self._refuse(self.join_refusal, context)
        self.worker = worker_id(request.public_key)
        honest: dict[str, object] = {
            "protocol_version": PROTOCOL_VERSION,
            "session_token": self.token,
            "worker_id": "0" * 16,
            "spec_sha256": "0" * 64,
            "spec_bytes": 100,
            "layout_sha256": "1" * 64,
            "max_chunk_bytes": 1000,
        }
        return pb.JoinReply(**(honest | self.join_lies))  # type: ignore[arg-type]

    def Lease(self, request: pb.LeaseRequest, _: grpc.ServicerContext) -> pb.LeaseReply:
        self.lease_called.set()
        self.done.wait(request.wait_ms / 1000)
        return pb.LeaseReply(idle=pb.Idle(reason=pb.Idle.REASON_ROUND_FULL, retry_after_ms=1))

    def Heartbeat(self, _: pb.HeartbeatRequest, context: grpc.ServicerContext) -> pb.HeartbeatReply:
        self._admit(context)
        return pb.HeartbeatReply(order=pb.HeartbeatReply.ORDER_CONTINUE)

    def SubmitOffset(self, _: pb.SubmitOffsetRequest, context: grpc.ServicerContext) -> pb.SubmitOffsetReply:
        self._admit(context)
        return pb.SubmitOffsetReply(received_bytes=len(self.arrived))

    def Submit(self, parts: Iterator[pb.SubmitRequest], context: grpc.ServicerContext) -> pb.SubmitReply:
        header = next(parts).header
        self.headers.append(header)
        self.offsets.append(header.offset)
        for part in parts:
            self.arrived += part.chunk
            if part.HasField("shown"):
                self.shown.append(part.shown)
            if 0 < self.cut_after_bytes <= len(self.arrived):
                self.cut_after_bytes = 0
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        if hashlib.sha256(self.arrived).hexdigest() != header.sha256:
            context.abort(grpc.StatusCode.INTERNAL, "other bytes than announced")
        if self.challenge and not self.shown:
            return pb.SubmitReply(challenge=pb.ResidualChallenge(leaves=self.challenge))
        receipt = pb.SubmitReply()
        receipt.CopyFrom(self.receipt)
        with suppress(ValidationError):  # what it is told to answer is none
            received = Received(
                run_id=RUN_ID,
                contribution_id=receipt.contribution_id,
                worker_id=self.worker,
                lease_id=header.lease_id,
                sha256=header.sha256,
                images=receipt.images,
                round=receipt.round,
            )
            receipt.signature = (Ed25519PrivateKey.generate() if self.forges else RUN_KEY).sign(received.message())
        return receipt

    def _admit(self, context: grpc.ServicerContext) -> None:
        if self.refusal is not None:
            self._refuse(self.refusal, context)
        if ("authorization", f"Bearer {self.token}") not in context.invocation_metadata():
            context.set_trailing_metadata(((REFUSAL_METADATA, "REFUSAL_UNKNOWN_SESSION"),))
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is not known")

    def _refuse(self, refusal: pb.Refusal, context: grpc.ServicerContext) -> None:
        trailing = [(REFUSAL_METADATA, pb.Refusal.Name(refusal))]
        if self.retry_after_ms:
            trailing.append((RETRY_AFTER_METADATA, self.retry_after_ms))
        context.set_trailing_metadata(tuple(trailing))
        context.abort(MEANINGS[refusal].status, "a sentence for people")


@dataclass(frozen=True)
class Place:
    """A server and what it does."""

    coordinator: Scripted
    server: grpc.Server
    port: int

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def serving(coordinator: Scripted) -> Iterator[Place]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    add_CoordinatorServicer_to_server(coordinator, server)
    place = Place(coordinator, server, server.add_insecure_port("127.0.0.1:0"))
    server.start()
    try:
        yield place
    finally:
        coordinator.done.set()
        server.stop(None).wait()


class RunPage(HTTPServer):
    """Serves `info` as /run.json."""

    def __init__(self, info: dict[str, object]) -> None:
        super().__init__(("127.0.0.1", 0), _RunPageHandler)
        self.info = info

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _RunPageHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, RunPage)
        self.send_response(200 if self.path == "/run.json" else 404)
        self.end_headers()
        self.wfile.write(json.dumps(self.server.info).encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serving_page(info: dict[str, object]) -> Iterator[RunPage]:
    page = RunPage(info)
    thread = threading.Thread(target=page.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield page
    finally:
        page.shutdown()
        thread.join()
        page.server_close()
