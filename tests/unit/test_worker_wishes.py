"""What an owner may say, in any order, on a clock that the test moves."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from diffusion_at_home.errors import ConfigError
from worker.conditions.hindrance import Hindrance, IdleReason
from worker.control.duration import parse_duration
from worker.control.pause_file import PauseFile
from worker.control.permission import Permission, Unhindered
from worker.control.wishes import Wish
from worker.settings import WorkerSettings
from worker.stop import StopSignal

NIGHT = Hindrance(IdleReason.HOURS, "it works from 22:00 on", None)


class Wall:
    """The clock on the wall."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 28, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def advance(self, **time: float) -> datetime:
        self.time += timedelta(**time)
        return self.time


class Rules:
    """Hinders as it is told."""

    def __init__(self) -> None:
        self.now: Hindrance | None = None

    def hindrance(self) -> Hindrance | None:
        return self.now

    def reload(self, settings: WorkerSettings) -> None:
        self.now = NIGHT if settings.display_name == "owl" else None


class House:
    """A worker's permission, killed and started again at will."""

    def __init__(self, root: Path) -> None:
        self.wall, self.rules = Wall(), Rules()
        self.file = PauseFile(root / "pause.json")
        self.start()

    def start(self) -> None:
        """As after kill -9: nothing is left but the file."""
        self.permission = Permission(self.file, self.rules, self.wall)
        self.permission.look()

    def rests(self) -> IdleReason | None:
        """Why it rests; None if it may work."""
        found: list[Hindrance] = []

        def told(hindrance: Hindrance) -> None:
            found.append(hindrance)
            self.permission.stop()  # else the wait has no end

        self.permission.wait(told)
        return found[0].reason if found else None


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def degrees(signal: StopSignal) -> tuple[bool, bool, bool]:
    """No further lease; hand in; give back."""
    return signal.no_more.is_set(), signal.event.is_set(), signal.at_once.is_set()


def test_a_pause_ends_the_lease_and_outlives_the_process(house: House) -> None:
    with house.permission.stretch() as signal:
        house.permission.pause(None)
        assert degrees(signal) == (True, True, False)
    house.start()
    assert house.permission.wish is Wish.PAUSED
    house.wall.advance(days=1000)
    assert house.rests() is IdleReason.PAUSED


def test_a_pause_now_gives_the_lease_back(house: House) -> None:
    with house.permission.stretch() as signal:
        house.permission.pause(None)
        house.permission.pause(None, at_once=True)
        assert degrees(signal) == (True, True, True)


def test_a_timed_pause_ends_by_the_wall_clock_also_while_nothing_ran(house: House) -> None:
    until = house.wall.time + timedelta(hours=2)
    house.permission.pause(until)
    house.wall.advance(hours=1)
    house.start()
    assert (house.permission.wish, house.permission.paused_until) == (Wish.PAUSED, until)
    house.wall.advance(hours=1)
    house.start()
    assert house.permission.wish is Wish.RUNNING
    assert house.permission.wait(lambda _: None)
    assert house.file.read() is None


def test_a_timed_pause_ends_while_the_worker_waits(house: House) -> None:
    house.permission.pause(house.wall.time + timedelta(hours=2))
    house.permission.look()
    told: list[Hindrance] = []

    def time_passes(hindrance: Hindrance) -> None:
        told.append(hindrance)
        house.wall.advance(hours=2)
        house.permission.look()

    assert house.permission.wait(time_passes)
    (hindrance,) = told
    assert (hindrance.reason, hindrance.until) == (IdleReason.PAUSED_FOR, house.wall.time)


def test_the_last_pause_counts_and_resuming_twice_changes_nothing(house: House) -> None:
    house.permission.pause(None)
    house.permission.pause(house.wall.time + timedelta(minutes=1))
    assert house.permission.paused_until == house.wall.time + timedelta(minutes=1)
    for _ in range(2):
        house.permission.resume()
        assert house.permission.wish is Wish.RUNNING
    with house.permission.stretch() as signal:
        assert degrees(signal) == (False, False, False)
    house.start()
    assert house.permission.wish is Wish.RUNNING


def test_resuming_ends_the_wait(house: House) -> None:
    house.permission.pause(None)
    assert house.permission.wait(lambda _: house.permission.resume())


def test_finishing_keeps_the_lease_and_can_be_taken_back(house: House) -> None:
    with house.permission.stretch() as signal:
        house.permission.finish()
        assert (house.permission.wish, degrees(signal)) == (Wish.FINISHING, (True, False, False))
        house.permission.resume()
        assert (house.permission.wish, degrees(signal)) == (Wish.RUNNING, (False, False, False))
        house.permission.finish()
    assert not house.permission.wait(lambda _: None)
    house.start()
    assert house.permission.wish is Wish.RUNNING  # to one process only


def test_finishing_while_paused_ends_the_process_and_the_next_one_is_paused(house: House) -> None:
    house.permission.pause(None)
    assert not house.permission.wait(lambda _: house.permission.finish())
    house.start()
    assert house.permission.wish is Wish.PAUSED


def test_a_pause_while_finishing_ends_the_lease_early_and_then_the_process(house: House) -> None:
    with house.permission.stretch() as signal:
        house.permission.finish()
        house.permission.pause(None)
        assert degrees(signal) == (True, True, False)
    assert not house.permission.wait(lambda _: None)


def test_a_stop_is_final(house: House) -> None:
    with house.permission.stretch() as signal:
        house.permission.stop()
        house.permission.resume()
        assert (house.permission.wish, degrees(signal)) == (Wish.STOPPING, (True, True, False))
        house.permission.stop(at_once=True)
        assert signal.at_once.is_set()
    assert not house.permission.wait(lambda _: None)


def test_rules_end_a_stretch_and_the_owners_own_pause_is_named_before_them(house: House) -> None:
    with house.permission.stretch() as signal:
        house.rules.now = NIGHT
        house.permission.look()
        assert degrees(signal) == (True, True, False)
    reasons: list[IdleReason] = []

    def one_after_another(hindrance: Hindrance) -> None:
        reasons.append(hindrance.reason)
        match hindrance.reason:
            case IdleReason.HOURS if len(reasons) == 1:
                house.permission.pause(None)
            case IdleReason.PAUSED:
                house.permission.resume()
            case _:
                house.rules.now = None
                house.permission.look()

    assert house.permission.wait(one_after_another)
    assert reasons == [IdleReason.HOURS, IdleReason.PAUSED, IdleReason.HOURS]


def test_new_settings_hold_at_once(house: House) -> None:
    with house.permission.stretch() as signal:
        house.permission.reload(WorkerSettings(display_name="owl"))
        assert signal.requested


def test_nothing_begins_before_the_rules_were_asked(tmp_path: Path) -> None:
    rules, may_work = Rules(), threading.Event()
    rules.now = NIGHT
    permission = Permission(PauseFile(tmp_path / "pause.json"), rules, Wall())

    def wait() -> None:
        if permission.wait(lambda _: None):
            may_work.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    permission.look()
    assert not may_work.wait(0.05)
    rules.now = None
    permission.look()
    assert may_work.wait(10)
    waiting.join()


def test_a_damaged_file_is_named_and_mended_by_the_next_wish(tmp_path: Path) -> None:
    path = tmp_path / "pause.json"
    path.write_text('{"until": "soon"}')
    with pytest.raises(ConfigError, match=r"pause\.json is damaged"):
        Permission(PauseFile(path), Unhindered(), Wall())
    PauseFile(path).write(None)
    assert Permission(PauseFile(path), Unhindered(), Wall()).wish is Wish.RUNNING


@pytest.mark.parametrize(("text", "minutes"), [("90m", 90), ("2h", 120), ("1d12h", 2160), ("1 h 30 m", 90), ("60S", 1)])
def test_times_are_read_as_people_write_them(text: str, minutes: int) -> None:
    assert parse_duration(text, "--for") == timedelta(minutes=minutes)


@pytest.mark.parametrize("text", ["", "2", "h", "2x", "0s", "-1h", "367d", "9999999d9999999d", "1.5h", "²h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--for"):
        parse_duration(text, "--for")
