"""What the rules ask: real sensors of this machine, or others in their place."""

from __future__ import annotations

from dataclasses import dataclass

from worker.conditions.battery import BatterySensor, this_machines_battery
from worker.conditions.cards import CardSensor, NvmlCards
from worker.conditions.desktop_input import this_machines_input
from worker.conditions.disk import DiskSensor, free_bytes
from worker.conditions.idle import InputSensor
from worker.conditions.programs import ProgramSensor, running_programs


@dataclass(frozen=True, slots=True)
class Sensors:
    """One of each kind."""

    input: InputSensor
    battery: BatterySensor
    programs: ProgramSensor
    cards: CardSensor
    disk: DiskSensor


def this_machines_sensors() -> Sensors:
    """Those of this machine. Nothing is asked yet."""
    return Sensors(this_machines_input(), this_machines_battery(), running_programs, NvmlCards(), free_bytes)
