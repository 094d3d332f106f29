"""Hands contributions in: asks where the last try ended, streams the rest, keeps at it until there is a receipt.

What is in the outbox counts exactly once however often it is sent; the coordinator sees to that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.audit.residual import MAX_SHOWN_LEAVES, ShownLeaf
from diffusion_at_home.audit.shown import leaf_message
from diffusion_at_home.clock import Clock
from diffusion_at_home.errors import LeaseLost, RetryCall
from diffusion_at_home.identity import Handed
from diffusion_at_home.kept_weights import to_wire
from diffusion_at_home.receipt import Receipt
from diffusion_at_home.rpc.coordinator_pb2 import ResidualChallenge, SubmitHeader, SubmitOffsetRequest, SubmitRequest
from worker.outbox import Contribution, Outbox
from worker.pacer import Pacer
from worker.patience import Patience
from worker.receipts import Receipts
from worker.session import Session
from worker.stop import StopSignal

_SLOWEST_BYTES_PER_SECOND: Final = 10_000
"""A line slower than this is taken for a dead one."""

_STOPPING_SILENCE_SECONDS: Final = 10.0
"""Once the worker is to stop, a line that takes no bytes and brings no answer for so long is left alone."""

_LONGEST_RECEIPT: Final = timedelta(minutes=2)
"""For the coordinator to screen and store what has arrived."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What has been handed in."""

    receipt: Receipt
    seconds: float
    """Duration of the try that went through."""


class Sender:
    """Sends from one outbox through one session."""

    def __init__(
        self,
        *,
        session: Session,
        outbox: Outbox,
        receipts: Receipts,
        patience: Patience,
        clock: Clock,
        pacer: Pacer,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`pacer` limits what leaves; `on_bytes` is told of every piece."""
        self._pacer = pacer
        self._session = session
        self._outbox = outbox
        self._receipts = receipts
        self._patience = patience
        self._clock = clock
        self._on_bytes = on_bytes

    def send(self, contribution: Contribution, stop: StopSignal) -> Sent:
        """Hand `contribution` in; afterwards its receipt is kept, and it has left the outbox.

        Raises `LeaseLost` if it is refused, and `Interrupted` if the worker is to stop and the line is dead, or to stop at
        once: only then it stays in the outbox.
        """
        try:
            sent = self._patience.call(lambda: self._try(contribution, stop), stop.event)
        except LeaseLost as lost:
            self._outbox.refused(contribution, lost)
            raise
        self._receipts.keep(sent.receipt)
        self._outbox.received(contribution)
        return sent

    def _try(self, contribution: Contribution, stop: StopSignal) -> Sent:
        started_at = self._clock.now()
        silence = _Silence(stop, self._clock)
        offset = self._session.submit_offset(
            SubmitOffsetRequest(
                protocol_version=PROTOCOL_VERSION, lease_id=contribution.lease_id, sha256=contribution.sha256
            ),
            silence,
        )
        if offset > contribution.size_bytes:
            raise RetryCall(f"the coordinator claims {offset} of {contribution.size_bytes} bytes of a contribution")
        left = contribution.size_bytes - offset
        deadline = _LONGEST_RECEIPT + timedelta(seconds=left / _SLOWEST_BYTES_PER_SECOND)
        with self._pacer.transfer(left):
            reply = self._session.submit(lambda: self._parts(contribution, offset, silence), deadline, silence)
            if reply.HasField("challenge"):
                leaves = self._outbox.show(contribution, read_challenge(reply.challenge))
                reply = self._session.submit(lambda: self._answer(contribution, leaves, silence), deadline, silence)
        if reply.HasField("challenge"):  # it was started anew meanwhile, or is none
            raise RetryCall("the coordinator asks for other parts of a residual than it did just now")
        return Sent(self._receipts.read(contribution, reply), self._clock.now() - started_at)

    def _parts(self, contribution: Contribution, offset: int, silence: _Silence) -> Iterator[SubmitRequest]:
        yield self._header(contribution, offset)
        with self._outbox.vector(contribution).open("rb") as file:
            file.seek(offset)
            most = self._session.max_chunk_bytes
            while chunk := file.read(min(most, self._pacer.piece_bytes or most)):
                yield SubmitRequest(chunk=chunk)
                self._passed(len(chunk), silence)

    def _answer(
        self, contribution: Contribution, leaves: Sequence[ShownLeaf], silence: _Silence
    ) -> Iterator[SubmitRequest]:
        yield self._header(contribution, contribution.size_bytes)
        for leaf in leaves:
            yield (request := SubmitRequest(shown=leaf_message(leaf)))
            self._passed(request.ByteSize(), silence)

    def _passed(self, num_bytes: int, silence: _Silence) -> None:
        self._on_bytes(num_bytes)
        self._pacer.passes(num_bytes)
        silence.broken()

    def _header(self, contribution: Contribution, offset: int) -> SubmitRequest:
        handed = Handed(
            run_id=self._session.run_id,
            lease_id=contribution.lease_id,
            lease_sha256=contribution.lease_sha256,
            weights=contribution.weights,
            sha256=contribution.sha256,
            images=contribution.images,
            residual_before=contribution.residual_before,
            residual_after=contribution.residual_after,
        )
        header = SubmitHeader(
            protocol_version=PROTOCOL_VERSION,
            lease_id=contribution.lease_id,
            sha256=contribution.sha256,
            size_bytes=contribution.size_bytes,
            offset=offset,
            images=contribution.images,
            train_ms=contribution.train_ms,
            mean_loss=contribution.mean_loss,
            signature=self._session.signature(handed),
            residual_before=bytes.fromhex(contribution.residual_before),
            residual_after=bytes.fromhex(contribution.residual_after),
            weights=to_wire(contribution.weights),
        )
        return SubmitRequest(header=header)


class _Silence:
    """The cue to leave a call: the worker is to stop, and for a while nothing has moved; or it is to stop at once."""

    def __init__(self, stop: StopSignal, clock: Clock) -> None:
        self._stop = stop
        self._clock = clock
        self._since: float | None = None

    def broken(self) -> None:
        """Bytes have moved."""
        self._since = None

    def is_set(self) -> bool:
        """See `Cue`."""
        if not self._stop.requested or self._stop.at_once.is_set():
            return self._stop.at_once.is_set()
        now = self._clock.now()
        since = self._since = now if self._since is None else self._since
        return now - since >= _STOPPING_SILENCE_SECONDS


def read_challenge(challenge: ResidualChallenge) -> list[int]:
    """The leaves that are asked for. Raises `RetryCall` for more than anybody may ask for."""
    if len(challenge.leaves) > MAX_SHOWN_LEAVES:
        raise RetryCall(f"the coordinator asks for more than {MAX_SHOWN_LEAVES} leaves of a residual")
    return list(challenge.leaves)
