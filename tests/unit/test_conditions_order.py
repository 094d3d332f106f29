"""One reason at a time, in a fixed order; a sensor that fails is said once and hinders nothing; asking is cheap."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffusion_at_home import events
from diffusion_at_home.clock import SystemClock
from tests.unit.fake_machine import GIB, FakeMachine, settings
from worker.conditions.cards import CardReading
from worker.conditions.conditions import Conditions
from worker.conditions.hindrance import IdleReason
from worker.conditions.idle import Input
from worker.conditions.sensors import this_machines_sensors
from worker.conditions.traffic import Traffic
from worker.conditions.wall_clock import SystemWallClock
from worker.settings import WorkerSettings


def rules(folder: Path, *, without: tuple[str, ...] = (), off: tuple[int, ...] = ()) -> WorkerSettings:
    """All rules at once, but for some keys."""
    when = {
        "hours": ["mon 00:00-01:00"],
        "only_when_idle_minutes": 5,
        "pause_for": ["blender"],
        "gpu_max_celsius": 80,
        "gpu_max_watts": 200,
    }
    limits = {"up_gib_per_month": 0.1, "down_gib_per_month": 0.1, "gpus_off": off}
    kept = [{key: value for key, value in section.items() if key not in without} for section in (when, limits)]
    return settings(folder, when=kept[0], limits=kept[1])


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    """One that everything hinders."""
    machine = FakeMachine(tmp_path)
    machine.input = Input(1.0)
    machine.on_battery = True
    machine.programs = ["blender"]
    machine.cards = (CardReading(0, 90.0, 300.0),)
    machine.free_bytes = 0
    machine.traffic.up.passes(GIB)
    machine.traffic.down.passes(GIB)
    return machine


def remedied_one_by_one(machine: FakeMachine, conditions: Conditions, folder: Path) -> Iterator[None]:
    """After each, one reason less."""
    yield
    conditions.reload(rules(folder, without=("hours",), off=(1,)))
    yield
    machine.input = Input(9999.0)
    yield
    machine.on_battery = False
    yield
    machine.programs = []
    yield
    machine.cards = (CardReading(0, 60.0, 300.0),)
    yield
    machine.cards = (CardReading(0, 60.0, 10.0),)
    yield
    conditions.reload(rules(folder, without=("hours", "up_gib_per_month")))
    yield
    conditions.reload(rules(folder, without=("hours", "up_gib_per_month", "down_gib_per_month"), off=(0,)))
    machine.cards = ()
    yield
    machine.free_bytes = 9 * GIB
    machine.cards = (CardReading(0, 60.0, 10.0),)
    yield
    conditions.reload(rules(folder, without=("hours", "up_gib_per_month", "down_gib_per_month")))
    yield


def test_one_reason_at_a_time_in_the_order_of_their_names(machine: FakeMachine, tmp_path: Path) -> None:
    conditions = machine.conditions(rules(tmp_path))
    found: list[IdleReason | None] = []
    for _ in remedied_one_by_one(machine, conditions, tmp_path):
        for _second in range(90):  # until every sensor was asked again, and watts were averaged
            hindrance = conditions.hindrance()
            machine.clock.advance(1)
        found.append(None if hindrance is None else hindrance.reason)
    elsewhere = {IdleReason.PAUSED, IdleReason.PAUSED_FOR, IdleReason.DUTY, IdleReason.SETTINGS}
    assert found == [*(reason for reason in IdleReason if reason not in elsewhere), None]


def test_sensors_that_fail_are_said_once_and_hinder_nothing(machine: FakeMachine, tmp_path: Path) -> None:
    conditions = machine.conditions(rules(tmp_path, without=("hours", "up_gib_per_month", "down_gib_per_month")))
    broken = RuntimeError("it is broken")
    machine.input = machine.on_battery = machine.programs = machine.cards = machine.free_bytes = broken
    events.configure(tmp_path / "log", None)
    try:
        for _ in range(100):
            assert conditions.hindrance() is None
            machine.clock.advance(1)
        machine.on_battery = False
        machine.clock.advance(20)
        assert conditions.hindrance() is None
        machine.on_battery = OSError("it is broken again")
        machine.clock.advance(20)
        assert conditions.hindrance() is None
    finally:
        events.configure(None, None)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    said = [(line["rule"], line["reason"]) for line in lines if line["event"] == "condition_unknown"]
    names = ["OnlyWhenIdle", "OnBattery", "Programs", "Heat", "Power", "DiskReserve"]
    assert said == [*((name, "it is broken") for name in names), ("OnBattery", "it is broken again")]


def test_a_failing_sensor_hides_no_other_reason(machine: FakeMachine, tmp_path: Path) -> None:
    conditions = machine.conditions(rules(tmp_path, without=("hours",)))
    machine.input = RuntimeError("it is broken")
    hindrance = conditions.hindrance()
    assert hindrance is not None
    assert hindrance.reason is IdleReason.BATTERY


def test_this_machine_is_asked_without_raising_and_at_little_cost(tmp_path: Path) -> None:
    clock, wall = SystemClock(), SystemWallClock()
    by = rules(tmp_path, without=("hours", "only_when_idle_minutes"))
    conditions = Conditions(by, this_machines_sensors(), Traffic(tmp_path / "traffic.json", clock, wall), clock, wall)
    conditions.hindrance()
    started = time.process_time()
    for _ in range(100):
        conditions.hindrance()
    assert (time.process_time() - started) / 100 < 0.005  # of each second: half a percent of a core


def test_nothing_of_it_loads_torch() -> None:
    code = "import sys, worker.conditions.conditions, worker.conditions.throttle; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_settings_are_replaced_whole(machine: FakeMachine, tmp_path: Path) -> None:
    conditions = machine.conditions(rules(tmp_path))
    assert conditions.hindrance() is not None
    machine.on_battery, machine.free_bytes = False, 9 * GIB
    conditions.reload(settings(tmp_path))
    machine.clock.advance(10)
    assert conditions.hindrance() is None
