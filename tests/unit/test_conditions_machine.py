"""Battery, programs and disk: what hinders, what is asked how seldom, and what is no battery of the system."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.fake_machine import GIB, FakeMachine, settings
from worker.conditions.battery import supplies_say_battery, this_machines_battery
from worker.conditions.disk import free_bytes
from worker.conditions.hindrance import IdleReason
from worker.conditions.programs import running_programs


def test_it_rests_on_battery_unless_it_may_work_there(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    machine.on_battery = True
    conditions = machine.conditions(settings(tmp_path))
    hindrance = conditions.hindrance()
    assert hindrance is not None
    assert hindrance.reason is IdleReason.BATTERY
    assert "when it is plugged in" in hindrance.sentence
    conditions.reload(settings(tmp_path, when={"on_battery": True}))
    assert conditions.hindrance() is None


def test_the_battery_is_asked_every_10_seconds(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    conditions = machine.conditions(settings(tmp_path))
    for _ in range(60):
        conditions.hindrance()
        machine.clock.advance(1)
    assert machine.asked.count("battery") == 6
    assert machine.asked.count("disk") == 2 * 6  # of two folders
    assert machine.asked.count("programs") == machine.asked.count("cards") == 0  # no setting asks


def supply(folder: Path, name: str, **said: str) -> None:
    (folder / name).mkdir()
    for key, value in said.items():
        (folder / name / key).write_text(f"{value}\n")


@pytest.mark.parametrize(
    ("mains", "status", "on_battery"),
    [("1", "Charging", False), ("1", "Discharging", False), ("0", "Discharging", True), ("0", "Full", False)],
)
def test_a_laptop_is_on_battery_when_that_empties_and_nothing_feeds_it(
    tmp_path: Path, mains: str, status: str, on_battery: bool
) -> None:
    supply(tmp_path, "AC", type="Mains", online=mains)
    supply(tmp_path, "BAT0", type="Battery", status=status)
    assert supplies_say_battery(tmp_path) is on_battery


def test_a_mouse_is_no_battery_of_the_system_and_no_mains(tmp_path: Path) -> None:
    supply(tmp_path, "hidpp_battery_0", type="Battery", scope="Device", status="Discharging", online="1")
    assert not supplies_say_battery(tmp_path)
    supply(tmp_path, "BAT0", type="Battery", status="Discharging")
    assert supplies_say_battery(tmp_path)
    supply(tmp_path, "ucsi-source-psy-USBC000:001", type="USB", online="1")
    assert not supplies_say_battery(tmp_path)


@pytest.mark.parametrize(
    ("patterns", "runs", "hinders"),
    [
        (["blender"], ["bash", "Blender"], "Blender"),
        (["steam_app*"], ["bash", "steam_app_570"], "steam_app_570"),
        (["*.exe", "blender"], ["a.exe.txt", "blender-launcher"], None),
        ([], ["blender"], None),
    ],
)
def test_it_makes_way_for_programs_that_are_named(
    tmp_path: Path, patterns: list[str], runs: list[str], hinders: str | None
) -> None:
    machine = FakeMachine(tmp_path)
    machine.programs = runs
    conditions = machine.conditions(settings(tmp_path, when={"pause_for": patterns}))
    hindrance = conditions.hindrance()
    if hinders is None:
        assert hindrance is None
        return
    assert hindrance is not None
    assert hindrance.reason is IdleReason.PROGRAM
    assert hindrance.sentence.startswith(f"{hinders} runs")
    machine.programs = ["bash"]
    machine.clock.advance(9)
    assert conditions.hindrance() == hindrance
    machine.clock.advance(1)
    assert conditions.hindrance() is None


def test_it_leaves_some_of_the_disk_to_others(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    machine.free_bytes = 5 * GIB - 1
    conditions = machine.conditions(settings(tmp_path, limits={"disk_reserve_gib": 5.0}))
    hindrance = conditions.hindrance()
    assert hindrance is not None
    assert hindrance.reason is IdleReason.DISK
    assert "5.00 GiB left, less than limits.disk_reserve_gib = 5" in hindrance.sentence
    machine.free_bytes = 5 * GIB
    machine.clock.advance(10)
    assert conditions.hindrance() is None


def test_a_folder_that_is_not_there_yet_is_on_the_disk_of_the_nearest_that_is(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet") == pytest.approx(free_bytes(tmp_path), rel=0.01)


def test_this_machine_answers_without_raising() -> None:
    assert this_machines_battery()() in {True, False}
    assert running_programs()
