"""Who may open a session, and whose a token is."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.admission import Rate
from coordinator.enrolment import Enrolment
from coordinator.ledger_thread import LedgerThread
from coordinator.problems import Problems
from coordinator.refused import Refused
from coordinator.registry import Registry
from coordinator.standing import Standing
from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.clock import ManualClock
from diffusion_at_home.config.trust import EnrolmentMode, ScreeningSection
from diffusion_at_home.identity import Identity, WorkerId
from diffusion_at_home.rpc.coordinator_pb2 import Hardware, JoinRequest, Refusal
from tests.unit.desk import new_ledger
from worker.join_stamp import JoinStamp

RUN_ID = "tiny-00000000"
DAY_MS = 86_400_000
PER_SECOND = 5


class Door:
    """A registry over a real ledger, and one key that knocks."""

    def __init__(self, path: Path) -> None:
        self.ledger = new_ledger(path)
        self._thread = LedgerThread(self.ledger, Problems())
        self.identity = Identity(Ed25519PrivateKey.generate())
        self.clock = ManualClock()
        self._joins = Rate(PER_SECOND, self.clock, random.Random(0))
        self.registry = self.reopened()

    def reopened(self) -> Registry:
        return Registry(
            run_id=RUN_ID,
            ledger=self._thread,
            workers=self.ledger.workers(),
            joins=self._joins,
            standing=Standing(ScreeningSection(), {}),
            enrolment=Enrolment(EnrolmentMode.OPEN),
        )

    def close(self) -> None:
        self._thread.close()

    def request(self, signed_at_ms: int = 1000, **lies: Any) -> JoinRequest:
        hardware: dict[str, Any] = {
            "device": "cpu",
            "device_name": "a processor",
            "num_devices": 1,
            "memory_bytes": 2**34,
        }
        hardware |= lies.pop("hardware", {})
        honest: dict[str, Any] = {
            "protocol_version": PROTOCOL_VERSION,
            "public_key": self.identity.public_key,
            "signed_at_ms": signed_at_ms,
            "signature": self.identity.sign_join(RUN_ID, signed_at_ms),
            "display_name": "Anna",
            "hardware": Hardware(**hardware),
            "software_version": "0.1.0",
        }
        return JoinRequest(**(honest | lies))

    def join(self, signed_at_ms: int = 1000, **lies: Any) -> tuple[WorkerId, str]:
        return asyncio.run(self.registry.join(self.request(signed_at_ms, **lies)))

    def refusal(self, signed_at_ms: int = 1000, **lies: Any) -> Refusal:
        with pytest.raises(Refused) as refused:
            self.join(signed_at_ms, **lies)
        return refused.value.refusal


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path / "ledger.sqlite")
    yield door
    door.close()


def bearer(token: str) -> dict[str, str | bytes]:
    return {"authorization": f"Bearer {token}"}


def test_token_is_its_worker_s_and_only_its_hash_is_stored(door: Door) -> None:
    worker, token = door.join()
    assert worker == door.identity.worker_id
    assert door.registry.authenticate(bearer(token)) == worker
    stored = next(record for record in door.ledger.workers() if record.worker_id == worker)
    assert token not in repr(stored)


def test_session_outlives_a_restart(door: Door) -> None:
    worker, token = door.join()
    assert door.reopened().authenticate(bearer(token)) == worker


def test_joining_again_ends_the_old_session_and_keeps_the_worker(door: Door) -> None:
    worker, old = door.join(1000)
    again, new = door.join(1001)
    assert again == worker
    assert door.registry.authenticate(bearer(new)) == worker
    with pytest.raises(Refused):
        door.registry.authenticate(bearer(old))


@pytest.mark.parametrize("metadata", [{}, bearer("x"), {"authorization": "x"}, {"authorization": b"Bearer x"}])
def test_unknown_token_is_no_session(door: Door, metadata: dict[str, str | bytes]) -> None:
    door.join()
    with pytest.raises(Refused) as refused:
        door.registry.authenticate(metadata)
    assert refused.value.refusal == Refusal.REFUSAL_UNKNOWN_SESSION


def test_signature_of_another_run_time_or_key_proves_nothing(door: Door) -> None:
    stranger = Identity(Ed25519PrivateKey.generate())
    for signature in (
        door.identity.sign_join("other-00000000", 1000),
        door.identity.sign_join(RUN_ID, 1001),
        stranger.sign_join(RUN_ID, 1000),
    ):
        assert door.refusal(signature=signature) == Refusal.REFUSAL_BAD_SIGNATURE


@pytest.mark.parametrize("signed_at_ms", [1000, 999])
def test_recorded_join_cannot_be_replayed_not_even_after_a_restart(door: Door, signed_at_ms: int) -> None:
    door.join(1000)
    door.registry = door.reopened()
    assert door.refusal(signed_at_ms) == Refusal.REFUSAL_BAD_SIGNATURE


def test_same_join_twice_at_once_opens_one_session(door: Door) -> None:
    async def both() -> list[Any]:
        request = door.request()
        joins = door.registry.join(request), door.registry.join(request)
        return list(await asyncio.gather(*joins, return_exceptions=True))

    outcomes = asyncio.run(both())
    assert [type(outcome) for outcome in outcomes] == [tuple, Refused]


@pytest.mark.parametrize("version", [0, PROTOCOL_VERSION + 1])
def test_other_protocol_version_is_refused_before_anything_else(door: Door, version: int) -> None:
    assert door.refusal(protocol_version=version, public_key=b"") == Refusal.REFUSAL_VERSION_MISMATCH


@pytest.mark.parametrize(
    "lies",
    [
        {"public_key": b"k" * 31},
        {"signature": b"s" * 63},
        {"display_name": "x" * 65},
        {"display_name": "two\nlines"},
        {"team": "x" * 65},
        {"team": "two\nlines"},
        {"software_version": "x" * 33},
        {"hardware": {"device": "tpu"}},
        {"hardware": {"device_name": "x" * 129}},
        {"hardware": {"num_devices": 0}},
        {"hardware": {"num_devices": 1025}},
        {"hardware": {"memory_bytes": 2**63}},
    ],
)
def test_field_out_of_bounds_is_malformed(door: Door, lies: dict[str, Any]) -> None:
    assert door.refusal(**lies) == Refusal.REFUSAL_MALFORMED


def test_clock_that_was_a_year_ahead_and_was_set_locks_no_key_out(door: Door, tmp_path: Path) -> None:
    ahead = time.time_ns() // 1_000_000 + 365 * DAY_MS
    (tmp_path / "last_join").write_text(f"{ahead}\n")
    stamp = JoinStamp(tmp_path / "last_join")
    for _ in range(3):
        door.join(stamp.next_ms())


def test_time_that_no_later_one_could_follow_is_malformed(door: Door) -> None:
    assert door.refusal(2**53) == Refusal.REFUSAL_MALFORMED


def test_more_joins_than_may_be_in_a_second_are_told_when_to_come_back(door: Door) -> None:
    for signed_at_ms in range(1000, 1000 + PER_SECOND):
        door.join(signed_at_ms)
    with pytest.raises(Refused) as refused:
        door.join(2000)
    assert refused.value.refusal == Refusal.REFUSAL_BUSY
    assert refused.value.retry_after is not None
    door.clock.advance(refused.value.retry_after.total_seconds())
    assert door.join(2000)[0] == door.identity.worker_id
