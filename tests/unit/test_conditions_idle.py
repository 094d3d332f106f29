"""Only when idle: when it works, how often people are looked for, and what is seen of them on which desktop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import pytest

from tests.unit.fake_machine import BERLIN, FakeMachine, settings
from worker.conditions.desktop_input import DesktopInput, this_machines_input
from worker.conditions.hindrance import IdleReason
from worker.conditions.idle import Input

QUIET = {"when": {"only_when_idle_minutes": 10}}
NOW = 1_800_000_000.0
MINUTE = 60_000_000
"""In microseconds, as logind counts."""


def test_it_works_after_so_many_minutes_without_input_and_rests_within_5_seconds_of_the_next(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    conditions = machine.conditions(settings(tmp_path, **QUIET))
    last_input = machine.clock.now() - 30
    working: list[bool] = []
    for second in range(1200):
        if second == 900:
            last_input = machine.clock.now()
        machine.input = Input(machine.clock.now() - last_input)
        working.append(conditions.hindrance() is None)
        machine.clock.advance(1)
    begins = working.index(True)
    assert 570 <= begins <= 575
    assert all(working[begins:900])
    ends = working.index(False, 900)
    assert ends <= 905
    assert not any(working[ends:])
    assert machine.asked.count("input") <= 15 + 70  # seldom while somebody is there, every 5 seconds while not


def test_it_is_said_when_it_may_work(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    machine.input = Input(90.0)
    hindrance = machine.conditions(settings(tmp_path, **QUIET)).hindrance()
    assert hindrance is not None
    assert hindrance.reason is IdleReason.IN_USE
    assert hindrance.until == datetime(2026, 11, 27, 12, 9, tzinfo=BERLIN)
    assert hindrance.sentence == (
        "somebody uses this machine: it works after 10 minutes without input, at 12:09 at the earliest"
    )


def test_what_cannot_be_seen_is_said_and_does_not_hinder(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    machine.input = Input(math.inf, "nobody can see the mouse: buy a cat")
    conditions = machine.conditions(settings(tmp_path, **QUIET))
    assert conditions.hindrance() is None
    assert conditions.unknown == ("nobody can see the mouse: buy a cat",)
    machine.input = Input(1.0, "nobody can see the mouse: buy a cat")  # but a terminal is in use
    machine.clock.advance(5)
    hindrance = conditions.hindrance()
    assert hindrance is not None
    assert conditions.unknown == ()


def test_nobody_is_looked_for_unless_asked(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    assert machine.conditions(settings(tmp_path)).hindrance() is None
    assert "input" not in machine.asked


class Programs:
    """What loginctl, busctl and xprintidle would print; one that is not here is not installed."""

    def __init__(self, idle: Mapping[str, str], *sessions: str) -> None:
        self._idle = idle
        self._sessions = dict(enumerate(sessions, 1))

    def __call__(self, command: Sequence[str]) -> str | None:
        if command[:2] == ("loginctl", "list-sessions"):
            return "".join(f"{number:>6} 1000 me seat0 tty2 active no -\n" for number in self._sessions) or None
        if command[0] == "loginctl":
            return self._sessions[int(command[-1])]
        return self._idle.get(command[0])


def session(kind: str, hint: str, since: int, uid: int = 1000, of: str = "user") -> str:
    return f"Class={of}\nType={kind}\nState=active\nUser={uid}\nIdleHint={hint}\nIdleSinceHint={since}\n"


def at(minutes_ago: float) -> int:
    return int(NOW * 1e6 - minutes_ago * MINUTE)


def seen(programs: Programs, *terminals_seconds_ago: float, **environment: str) -> Input:
    times = [NOW - ago for ago in terminals_seconds_ago]
    return DesktopInput(programs, lambda: times, environment, lambda: NOW, 1000)()


BUS = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/1000/bus", "WAYLAND_DISPLAY": "wayland-0"}


def test_gnome_tells_exactly_whatever_logind_thinks() -> None:
    programs = Programs({"busctl": "t 42500\n"}, session("wayland", "no", 0))
    assert seen(programs, 9000, **BUS) == Input(42.5)


def test_x11_tells_exactly_through_xprintidle() -> None:
    assert seen(Programs({"xprintidle": "1500\n"}, session("x11", "no", at(60))), DISPLAY=":0") == Input(1.5)


def test_other_desktops_tell_logind() -> None:
    assert seen(Programs({}, session("wayland", "yes", at(20))), **BUS) == Input(1200.0)
    assert seen(Programs({}, session("wayland", "no", at(20))), **BUS) == Input(0.0)


def test_one_that_has_told_nothing_yet_is_not_seen_but_terminals_are() -> None:
    found = seen(Programs({}, session("wayland", "no", 0)), 30.0, **BUS)
    assert found.idle_seconds == 30.0
    assert found.unseen.startswith("the desktop has not said yet whether it is in use, only terminals count: ")


def test_somebody_else_at_the_desktop_counts_and_a_login_screen_does_not() -> None:
    programs = Programs(
        {"busctl": "t 900000\n"},
        session("wayland", "no", 0),
        session("x11", "no", at(5), uid=1001),
        session("wayland", "no", at(1), uid=120, of="greeter"),
    )
    assert seen(programs, **BUS) == Input(0.0)


def test_a_machine_without_desktop_is_seen_by_its_terminals() -> None:
    remote = session("tty", "no", at(0))
    assert seen(Programs({}, remote), 7200.0, 75.0) == Input(75.0)
    assert seen(Programs({})) == Input(math.inf)


def test_a_desktop_without_logind_is_not_seen() -> None:
    found = seen(Programs({}), 30.0, DISPLAY=":0")
    assert found.unseen.startswith("keyboard and mouse of the desktop cannot be seen, only terminals count: install")


@pytest.mark.parametrize("printed", ["", "t x\n", "s 5\n", "-3"])
def test_programs_that_print_something_else_are_not_believed(printed: str) -> None:
    programs = Programs({"busctl": printed, "xprintidle": printed}, session("x11", "yes", at(1)))
    assert seen(programs, DISPLAY=":0", **BUS) == Input(60.0)


def test_this_machine_is_looked_at_without_raising() -> None:
    assert this_machines_input()().idle_seconds >= 0
