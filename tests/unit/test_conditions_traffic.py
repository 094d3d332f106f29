"""Monthly caps: kept within 2 %, never passed, by calendar month, also after kill -9; and nothing is begun that would not fit."""

from __future__ import annotations

import hashlib
import math
import threading
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import httpx2
import pytest

from diffusion_at_home.clock import ManualClock
from diffusion_at_home.errors import ConfigError, LeaseLost
from tests.unit.fake_machine import BERLIN, GIB, FakeMachine, ManualWall, settings
from worker.backoff import Backoff
from worker.blobs import BlobCache, BlobFetcher, BlobRef
from worker.conditions.hindrance import IdleReason
from worker.conditions.traffic import Meter, Traffic
from worker.pacer import Pacer
from worker.patience import Patience
from worker.run_address import RunAddress

MIB = 2**20


def transfer(meter: Meter, num_bytes: int) -> None:
    """All of it, in pieces."""
    with meter.transfer(num_bytes):
        for begin in range(0, num_bytes, MIB):
            meter.passes(min(MIB, num_bytes - begin))


@pytest.mark.parametrize(
    ("key", "reason", "size"),
    [
        ("up_gib_per_month", IdleReason.UP_CAP, 9 * MIB),
        ("down_gib_per_month", IdleReason.DOWN_CAP, 20 * MIB + 7),
    ],
)
def test_a_cap_is_used_to_within_2_percent_and_never_passed(
    tmp_path: Path, key: str, reason: IdleReason, size: int
) -> None:
    machine = FakeMachine(tmp_path)
    conditions = machine.conditions(settings(tmp_path, limits={key: 1.0}))
    meter = machine.traffic.up if reason is IdleReason.UP_CAP else machine.traffic.down
    for _ in range(1000):
        if (hindrance := conditions.hindrance()) is not None:
            break
        with suppress(LeaseLost):
            transfer(meter, size)
    assert hindrance is not None
    assert hindrance.reason is reason
    assert 0.98 * GIB <= meter.used_bytes <= GIB
    assert hindrance.until == datetime(2026, 12, 1, tzinfo=BERLIN)
    assert f"GiB of limits.{key} = 1 are used, and the next transfer takes" in hindrance.sentence
    assert "works again at Tue 00:00, or with more" in hindrance.sentence


def test_no_lease_is_trained_whose_contribution_would_not_fit(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    conditions = machine.conditions(settings(tmp_path, limits={"up_gib_per_month": 1.0}))
    transfer(machine.traffic.up, 400 * MIB)
    assert conditions.hindrance() is None
    transfer(machine.traffic.up, 400 * MIB)
    assert conditions.hindrance() is not None  # before another one is begun


def test_a_new_month_begins_anew_and_the_old_one_stays_counted(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    conditions = machine.conditions(settings(tmp_path, limits={"down_gib_per_month": 0.1}))
    transfer(machine.traffic.down, GIB // 10)
    hindrance = conditions.hindrance()
    assert hindrance is not None
    assert hindrance.until is not None
    machine.clock.advance(hindrance.until.timestamp() - machine.wall.now() - 1)
    assert conditions.hindrance() is not None
    machine.clock.advance(1)
    assert conditions.hindrance() is None
    machine.wall.put(days=-2)  # a wall clock set back does not give a second month
    assert conditions.hindrance() is not None


def test_a_higher_cap_goes_on_at_once(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    conditions = machine.conditions(settings(tmp_path, limits={"down_gib_per_month": 0.1}))
    with pytest.raises(LeaseLost, match=r"a transfer of 0\.195 GiB does not fit limits\.down_gib_per_month = 0\.1"):
        transfer(machine.traffic.down, 200 * MIB)
    hindrance = conditions.hindrance()
    assert hindrance is not None
    assert hindrance.until is None  # no month is large enough
    conditions.reload(settings(tmp_path, limits={"down_gib_per_month": 0.2}))
    assert conditions.hindrance() is None
    transfer(machine.traffic.down, 200 * MIB)


def test_transfers_at_the_same_time_fit_together_or_not_at_all(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    machine.traffic.limit(up_gib=0, down_gib=1.0)
    down = machine.traffic.down
    with down.transfer(600 * MIB):
        with pytest.raises(LeaseLost):
            transfer(down, 600 * MIB)
        transfer(down, 400 * MIB)


def test_without_caps_everything_passes_and_is_counted(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    conditions = machine.conditions(settings(tmp_path))
    transfer(machine.traffic.up, 5 * MIB)
    with machine.traffic.down.transfer(10**15):
        pass
    assert conditions.hindrance() is None
    assert (machine.traffic.up.used_bytes, machine.traffic.down.used_bytes) == (5 * MIB, 0)


def test_what_was_counted_is_there_after_a_kill_but_for_the_last_seconds(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    conditions = machine.conditions(settings(tmp_path))
    kept = []
    for _ in range(60):
        machine.traffic.down.passes(MIB)
        conditions.hindrance()
        machine.clock.advance(1)
        found = Traffic(tmp_path / "traffic.json", machine.clock, machine.wall)  # as a start after kill -9
        kept.append(found.down.used_bytes)
        assert kept[-1] >= machine.traffic.down.used_bytes - 3 * MIB
    assert kept == sorted(kept)
    machine.traffic.close()
    after = Traffic(tmp_path / "traffic.json", machine.clock, machine.wall)
    assert after.down.used_bytes == 60 * MIB


def test_the_size_of_a_contribution_is_known_after_a_start(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    transfer(machine.traffic.up, 700 * MIB)
    machine.traffic.close()
    again = FakeMachine(tmp_path)
    assert again.conditions(settings(tmp_path, limits={"up_gib_per_month": 1.0})).hindrance() is not None


def test_nothing_is_written_while_nothing_passes(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    conditions = machine.conditions(settings(tmp_path))
    for _ in range(30):
        conditions.hindrance()
        machine.clock.advance(1)
    machine.traffic.close()
    assert not (tmp_path / "traffic.json").exists()


@pytest.mark.parametrize("text", ["", "{", '{"up_bytes": {"2026-11": -1}}', '{"sideways": {}}'])
def test_a_damaged_count_is_named_and_not_taken_for_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "traffic.json").write_text(text)
    with pytest.raises(ConfigError, match=r"traffic\.json is damaged .*: delete it"):
        Traffic(tmp_path / "traffic.json", ManualClock(), ManualWall(ManualClock(), 2026, 11, 27))


def test_a_count_that_cannot_be_written_is_said_and_does_not_hinder(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path / "state")
    conditions = machine.conditions(settings(tmp_path))
    (tmp_path / "state").write_text("a file where the folder was")
    machine.traffic.up.passes(1)
    machine.clock.advance(5)
    assert conditions.hindrance() is None
    assert "cannot write below" in conditions.unknown[0]


def test_a_download_that_would_pass_the_cap_is_not_begun(tmp_path: Path) -> None:
    data = bytes(3 * MIB)
    blob, requests = BlobRef(hashlib.sha256(data).hexdigest(), len(data)), []

    def serve(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(200, content=iter([data]))

    machine = FakeMachine(tmp_path)
    blobs = BlobFetcher(
        pacer=Pacer(math.inf, machine.clock, machine.clock.advance, machine.traffic.down),
        address=RunAddress.parse("https://run.example"),
        http=httpx2.Client(transport=httpx2.MockTransport(serve)),
        cache=BlobCache(tmp_path / "blobs", GIB),
        patience=Patience(Backoff(1, 300), lambda why: pytest.fail(str(why))),
    )
    machine.traffic.limit(up_gib=0, down_gib=2.9 / 1024)
    with pytest.raises(LeaseLost) as lost:
        blobs.fetch(blob, threading.Event())
    assert lost.value.reason == "monthly_cap"
    assert requests == []
    machine.traffic.limit(up_gib=0, down_gib=3.1 / 1024)
    blobs.fetch(blob, threading.Event())
    assert machine.traffic.down.used_bytes == len(data)
