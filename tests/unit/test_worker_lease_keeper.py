import threading
from datetime import timedelta

import pytest

from diffusion_at_home.clock import ManualClock
from diffusion_at_home.config.run import Codec
from diffusion_at_home.errors import Busy, LeaseLost, NotAdmitted, Unreachable
from diffusion_at_home.rpc.coordinator_pb2 import HeartbeatReply, HeartbeatRequest, Refusal
from worker.background import Background
from worker.grant import Grant, LeaseId
from worker.lease_keeper import LeaseKeeper

RUNNING = threading.Event()


class Coordinator:
    """Answers each heartbeat with the next of `replies`; the last one stays."""

    def __init__(self, *replies: HeartbeatReply | Exception) -> None:
        self._replies = list(replies)
        self.requests: list[HeartbeatRequest] = []

    def __call__(self, request: HeartbeatRequest, _: threading.Event) -> HeartbeatReply:
        self.requests.append(request)
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply


def go_on(closes_in_ms: int = 0, order: HeartbeatReply.Order = HeartbeatReply.ORDER_CONTINUE) -> HeartbeatReply:
    return HeartbeatReply(order=order, next_heartbeat_ms=10_000, closes_in_ms=closes_in_ms)


def keeper(coordinator: Coordinator, clock: ManualClock, closes_in_seconds: float = 0.0) -> LeaseKeeper:
    grant = Grant(
        lease_id=LeaseId(4),
        round=1,
        base_version=0,
        base_digest="",
        catch_up=(),
        ranges=(),
        seed=0,
        quota_images=64,
        learning_rate=1e-3,
        codec=Codec.INT8,
        next_heartbeat_seconds=10.0,
        closes_in_seconds=closes_in_seconds,
        upcoming=(),
    )
    return LeaseKeeper(grant, send=coordinator, clock=clock, lead_seconds=2.0, draw=lambda: 1.0)


def advance(kept: LeaseKeeper, clock: ManualClock, seconds: float) -> None:
    """Live through `seconds` as the thread would."""
    end = clock.now() + seconds
    while clock.now() + kept.seconds_until_due() <= end:
        clock.advance(kept.seconds_until_due())
        kept.do_what_is_due(RUNNING)
    clock.advance(end - clock.now())


def test_heartbeats_carry_progress_in_the_rhythm_the_coordinator_sets() -> None:
    clock, coordinator = ManualClock(), Coordinator(HeartbeatReply(next_heartbeat_ms=5_000), go_on())
    kept = keeper(coordinator, clock)
    kept.trained(320)
    advance(kept, clock, 26)
    assert len(coordinator.requests) == 3  # after 10, 15 and 25 s
    assert (coordinator.requests[0].lease_id, coordinator.requests[0].images_done) == (4, 320)
    assert coordinator.requests[0].images_per_second == 32


def test_training_wraps_up_when_the_push_must_start() -> None:
    clock = ManualClock()
    kept = keeper(Coordinator(go_on()), clock, closes_in_seconds=8.0)
    advance(kept, clock, 5.7)
    assert not kept.wrap_up.is_set()
    advance(kept, clock, 0.1)
    assert kept.wrap_up.is_set()
    kept.raise_if_over()


def test_an_announced_close_moves_the_hand_in_both_ways() -> None:
    clock = ManualClock()
    kept = keeper(Coordinator(go_on(30_000), go_on(4_000)), clock, closes_in_seconds=15.0)
    advance(kept, clock, 19.9)
    assert not kept.wrap_up.is_set()
    advance(kept, clock, 2.0)
    assert kept.wrap_up.is_set()


def test_order_to_hand_in_wraps_up_and_beats_go_on() -> None:
    clock, coordinator = ManualClock(), Coordinator(go_on(order=HeartbeatReply.ORDER_HAND_IN))
    kept = keeper(coordinator, clock)
    advance(kept, clock, 30)
    assert kept.wrap_up.is_set()
    assert len(coordinator.requests) == 3


def test_order_to_abandon_loses_the_lease_with_its_reason_and_silence_follows() -> None:
    clock = ManualClock()
    abandon = HeartbeatReply(order=HeartbeatReply.ORDER_ABANDON, reason=Refusal.REFUSAL_LEASE_EXPIRED)
    kept = keeper(Coordinator(abandon), clock)
    clock.advance(10)
    kept.do_what_is_due(RUNNING)
    assert kept.wrap_up.is_set()
    with pytest.raises(LeaseLost) as lost:
        kept.raise_if_over()
    assert lost.value.reason == "lease_expired"
    kept.run(RUNNING)  # returns


def test_a_coordinator_that_is_away_is_asked_again_while_training_goes_on() -> None:
    clock, coordinator = ManualClock(), Coordinator(*[Unreachable("nobody")] * 20, go_on())
    kept = keeper(coordinator, clock)
    advance(kept, clock, 10 + 1 + 2 + 4 + 8)
    assert len(coordinator.requests) == 5
    advance(kept, clock, 1000)
    assert not kept.wrap_up.is_set()
    kept.raise_if_over()


def test_a_busy_coordinator_is_asked_again_when_it_said() -> None:
    clock, coordinator = ManualClock(), Coordinator(Busy("a herd", timedelta(seconds=4)), go_on())
    kept = keeper(coordinator, clock)
    advance(kept, clock, 10 + 5.9)
    assert len(coordinator.requests) == 1
    advance(kept, clock, 0.2)
    assert len(coordinator.requests) == 2  # after half as much again at most


def test_dismissal_by_heartbeat_ends_the_lease() -> None:
    clock = ManualClock()
    kept = keeper(Coordinator(NotAdmitted("banned")), clock)
    clock.advance(10)
    kept.do_what_is_due(RUNNING)
    assert kept.wrap_up.is_set()
    with pytest.raises(NotAdmitted, match="banned"):
        kept.raise_if_over()


def test_a_background_thread_that_dies_takes_the_process_with_it() -> None:
    told = threading.Event()

    def die(_: threading.Event) -> None:
        raise KeyError("a bug")

    with pytest.raises(RuntimeError, match="the heart thread died"), Background("heart", die, told.set):
        told.wait()
