"""Keeps one lease alive while the main thread trains and hands in: progress up, orders down.

The coordinator alone says when a lease is lost. While nobody answers, training goes on: a coordinator that comes back
from a crash still knows its leases and gives each a whole timeout again, and there is nothing better to do meanwhile.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable
from typing import Final

from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.clock import Clock
from diffusion_at_home.errors import Busy, DahError, LeaseLost, RetryCall
from diffusion_at_home.refusals import short_name
from diffusion_at_home.rpc.coordinator_pb2 import HeartbeatReply, HeartbeatRequest, Refusal
from worker.backoff import Backoff
from worker.grant import Grant, heartbeat_seconds

Send = Callable[[HeartbeatRequest, threading.Event], HeartbeatReply]

_QUICKLY_SECONDS: Final = 1.0
"""Longest pause after the first beat that nobody answered; it doubles up to the usual interval, half of it is random."""

_SPARE_SECONDS: Final = 0.25
"""Between the expected receipt and the expected close."""


class LeaseKeeper:
    """One lease as the coordinator sees it now. `run` belongs on a thread of its own, the rest on the main one."""

    def __init__(
        self,
        grant: Grant,
        *,
        send: Send,
        clock: Clock,
        lead_seconds: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`lead_seconds`: from the order to hand in to the receipt, one step and the push; `draw` is uniform in [0, 1)."""
        self._draw = draw
        self.wrap_up = threading.Event()
        """Set when training should end: handing in is due, the lease is lost, or this thread has died."""
        self._grant = grant
        self._send = send
        self._clock = clock
        self._lead_seconds = lead_seconds + _SPARE_SECONDS
        self._started_at = clock.now()
        self._images = 0
        self._over: DahError | None = None
        self._failures = 0
        self._interval = grant.next_heartbeat_seconds
        self._beat_at = self._started_at + self._interval
        self._hand_in_at = math.inf
        self._plan_hand_in(grant.closes_in_seconds)

    def trained(self, images: int) -> None:
        """Note the images trained so far."""
        self._images = images

    def raise_if_over(self) -> None:
        """Raise why there is nothing left to do in this lease: `LeaseLost`, `LeaveRun`."""
        if self._over is not None:
            raise self._over

    def run(self, ended: threading.Event) -> None:
        """Beat until `ended` is set or the lease is over."""
        while self._over is None and not ended.wait(self.seconds_until_due()):
            self.do_what_is_due(ended)

    def seconds_until_due(self) -> float:
        """Until the next beat or the time to hand in."""
        due = self._beat_at if self.wrap_up.is_set() else min(self._beat_at, self._hand_in_at)
        return max(0.0, due - self._clock.now())

    def do_what_is_due(self, ended: threading.Event) -> None:
        """Hand in or beat, whichever time has come."""
        now = self._clock.now()
        if now >= self._hand_in_at:
            self.wrap_up.set()
        if now < self._beat_at:
            return
        try:
            self._obey(self._send(self._request(now), ended))
            self._failures, pause = 0, self._interval
        except Busy as busy:
            pause = Backoff(_QUICKLY_SECONDS, self._interval, self._draw).named_seconds(busy.retry_after)
        except RetryCall:
            self._failures += 1
            limit = min(_QUICKLY_SECONDS * 2.0 ** min(self._failures - 1, 32), self._interval)
            pause = limit * (1 + self._draw()) / 2
        except DahError as error:
            self._end(error)
            pause = self._interval
        self._beat_at = self._clock.now() + pause

    def _request(self, now: float) -> HeartbeatRequest:
        return HeartbeatRequest(
            protocol_version=PROTOCOL_VERSION,
            lease_id=self._grant.lease_id,
            images_done=self._images,
            images_per_second=self._images / max(now - self._started_at, 1e-6),
        )

    def _obey(self, reply: HeartbeatReply) -> None:
        self._interval = heartbeat_seconds(reply.next_heartbeat_ms)
        self._plan_hand_in(reply.closes_in_ms / 1000)
        if reply.order == HeartbeatReply.ORDER_HAND_IN:
            self.wrap_up.set()
        if reply.order == HeartbeatReply.ORDER_ABANDON:
            known = reply.reason in Refusal.values()
            reason = short_name(reply.reason) if known else "unknown"
            self._end(LeaseLost(f"the coordinator took lease {self._grant.lease_id} back ({reason})", reason))

    def _plan_hand_in(self, closes_in_seconds: float) -> None:
        """An announced close moves with the fleet, both ways; 0 says nothing."""
        if closes_in_seconds > 0:
            self._hand_in_at = self._clock.now() + closes_in_seconds - self._lead_seconds

    def _end(self, error: DahError) -> None:
        self._over = error
        self.wrap_up.set()
