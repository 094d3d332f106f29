"""Requests that no worker sends, with tokens that are valid: what a coordinator must refuse without a change of its state.

Two volunteers. The holder has all of the round's images in one lease, and hands in, beats and asks for offsets; the other has
none, and joins, asks for work and gives back. Each request is one that would be right but for a field or some bytes, and but
for what makes it void: a delta that does not fit its digest, a lease of somebody else, a signature that was used before.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.identity import Identity
from diffusion_at_home.rpc import coordinator_pb2 as pb
from diffusion_at_home.wire.vector import size_bounds
from simulator.fleet import FoundRun
from simulator.mutation import mutate_bytes, mutate_field
from simulator.session import Channels, Lines, SimulatedSession, is_dying, refusal_name
from simulator.tally import Tally

_PATH: Final = "/diffusion_at_home.v1.Coordinator/"
_DEADLINE_SECONDS: Final = 2.0
"""Of one that the coordinator understands as a wait for work."""

_AT_ONCE: Final = 8
_LEASE_WAIT_MS: Final = 10_000
_CORE: Final = "Internal error from Core"
"""What grpc says on this side when the other one has answered before all was sent."""

_TRACES: Final = ("Traceback", 'File "', ".py", "site-packages")


@dataclass(slots=True)
class Seen:
    """What the coordinator answered."""

    sent: int = 0
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By call and refusal; (ok) if it was none, a status in brackets if it had no name."""
    traces: list[str] = field(default_factory=list)
    """Answers that tell something of the program."""


class Hostile:
    """Sends them."""

    def __init__(self, run: FoundRun, channels: Channels, seed: int) -> None:
        self._rng = random.Random(seed)  # noqa: S311
        self._run = run
        self._channels = channels
        self._holder = self._session()
        self._other = self._session()
        self._lease = pb.LeaseGrant()

    @classmethod
    @asynccontextmanager
    async def joined(cls, run: FoundRun, *, seed: int) -> AsyncIterator[Hostile]:
        """With a lease of all that the round has: its images must be those of one probe."""
        lines = Lines(run.grpc_target, run.trust, channels=1)
        try:
            hostile = cls(run, lines.of(0), seed)
            await hostile._join()
            yield hostile
        finally:
            await lines.close()

    async def send(self, count: int) -> Seen:
        """So many requests, several at once."""
        seen, left = Seen(), iter(range(count))

        async def some() -> None:
            for _ in left:
                await self._send_one(seen)

        await asyncio.gather(*(some() for _ in range(_AT_ONCE)))
        return seen

    async def _join(self) -> None:
        await self._holder.join()
        await self._other.join()
        request = pb.LeaseRequest(protocol_version=PROTOCOL_VERSION, wait_ms=_LEASE_WAIT_MS)
        self._lease = (await self._holder.lease(request)).grant
        idle = await self._other.lease(pb.LeaseRequest(protocol_version=PROTOCOL_VERSION))
        assert idle.WhichOneof("outcome") == "idle", "the round has more images than one probe"

    async def _send_one(self, seen: Seen) -> None:
        call, messages, session = self._rng.choice(self._requests)()
        parts = [self._mutated(message) for message in messages]
        seen.sent += 1
        try:
            await self._call(call, parts, session)
            answer, sentence = "(ok)", ""
        except grpc.aio.AioRpcError as error:
            answer = refusal_name(error) or f"({error.code().name.lower()})"
            if error.details() == _CORE:
                answer = "(broken off)"
            sentence = f"{error.details()} {error.trailing_metadata()}"
        except asyncio.CancelledError:
            if is_dying():
                raise
            answer, sentence = "(broken off)", ""
        seen.answers[call, answer] += 1
        if any(trace in sentence for trace in _TRACES):
            seen.traces.append(f"{call}: {sentence}")

    async def _call(self, call: str, parts: Sequence[bytes], session: SimulatedSession) -> None:
        options: dict[str, Any] = {"metadata": session.metadata, "timeout": _DEADLINE_SECONDS}
        if call == "Submit":
            await self._channels.submits.stream_unary(_PATH + call, None, None)(iter(parts), **options)
        else:
            await self._channels.calls.unary_unary(_PATH + call, None, None)(parts[0], **options)

    def _mutated(self, message: Any) -> bytes:
        """Its fields or its bytes; of a stream, not every part."""
        match self._rng.randrange(3):
            case 0:
                return mutate_bytes(message.SerializeToString(), self._rng)
            case 1:
                return bytes(mutate_field(message, self._rng).SerializeToString())
            case _:
                return mutate_bytes(mutate_field(message, self._rng).SerializeToString(), self._rng)

    @property
    def _requests(self) -> Sequence[Callable[[], tuple[str, list[Any], SimulatedSession]]]:
        return (self._joins, self._asks, self._beats, self._asks_offset, self._hands_in, self._gives_back)

    def _joins(self) -> tuple[str, list[Any], SimulatedSession]:
        return "Join", [self._other.join_request()], self._other

    def _asks(self) -> tuple[str, list[Any], SimulatedSession]:
        request = pb.LeaseRequest(protocol_version=PROTOCOL_VERSION, images_per_second=3.0, has_weights=True, wait_ms=1)
        return "Lease", [request], self._other

    def _beats(self) -> tuple[str, list[Any], SimulatedSession]:
        request = pb.HeartbeatRequest(
            protocol_version=PROTOCOL_VERSION, lease_id=self._lease.lease_id, images_done=3, images_per_second=3.0
        )
        return "Heartbeat", [request], self._holder

    def _asks_offset(self) -> tuple[str, list[Any], SimulatedSession]:
        request = pb.SubmitOffsetRequest(
            protocol_version=PROTOCOL_VERSION, lease_id=self._lease.lease_id, sha256=hashlib.sha256(b"").hexdigest()
        )
        return "SubmitOffset", [request], self._holder

    def _hands_in(self) -> tuple[str, list[Any], SimulatedSession]:
        """Random bytes under the name of others: the digest never fits."""
        config, rng = self._run.spec.config, self._rng
        size = size_bounds(config.codec.delta, self._run.info.num_parameters)[0]
        header = pb.SubmitHeader(
            protocol_version=PROTOCOL_VERSION,
            lease_id=self._lease.lease_id,
            sha256=hashlib.sha256(rng.randbytes(8)).hexdigest(),
            size_bytes=size,
            images=1,
            train_ms=1,
            mean_loss=0.5,
        )
        self._holder.sign(header, self._lease)
        chunk = pb.SubmitRequest(chunk=rng.randbytes(size))
        return "Submit", [pb.SubmitRequest(header=header), chunk], self._holder

    def _gives_back(self) -> tuple[str, list[Any], SimulatedSession]:
        request = pb.ReleaseRequest(protocol_version=PROTOCOL_VERSION, lease_id=self._lease.lease_id, reason="stopping")
        return "Release", [request], self._other

    def _session(self) -> SimulatedSession:
        identity = Identity(Ed25519PrivateKey.from_private_bytes(self._rng.randbytes(32)))
        return SimulatedSession(identity=identity, run_id=self._run.info.run_id, channels=self._channels, tally=Tally())
