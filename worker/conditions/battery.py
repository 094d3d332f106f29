"""Do not work on battery, unless the volunteer wants that (`when.on_battery`)."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import psutil

from diffusion_at_home.clock import Clock
from worker.conditions.hindrance import Hindrance, IdleReason
from worker.conditions.seldom import Seldom
from worker.settings import WorkerSettings

_ASK_SECONDS: Final = 10.0


class BatterySensor(Protocol):
    """What knows where the power comes from."""

    def __call__(self) -> bool:
        """Whether the machine runs on its battery; one without battery never does."""


class OnBattery:
    """See `Rule`."""

    def __init__(self, sensor: BatterySensor, clock: Clock) -> None:
        self._on_battery = Seldom(sensor, _ASK_SECONDS, clock)

    def hindrance(self, settings: WorkerSettings) -> Hindrance | None:
        """See `Rule.hindrance`."""
        if settings.when.on_battery or not self._on_battery():
            return None
        return Hindrance(
            IdleReason.BATTERY,
            "this machine runs on battery: it works again when it is plugged in, or with when.on_battery = true",
            None,
        )


def supplies_say_battery(folder: Path) -> bool:
    """Whether the system draws on a battery, by what Linux shows below /sys/class/power_supply.

    The batteries of mice and headsets are there too, with the scope Device, and say nothing of the system.
    """
    supplies = [path for path in folder.glob("*") if _read(path / "scope") != "Device"]
    if any(_read(path / "type") != "Battery" and _read(path / "online") == "1" for path in supplies):
        return False
    return any(_read(path / "type") == "Battery" and _read(path / "status") == "Discharging" for path in supplies)


def this_machines_battery() -> Callable[[], bool]:
    """The sensor that suits this system."""
    if platform.system() == "Linux":
        return lambda: supplies_say_battery(Path("/sys/class/power_supply"))
    return _psutil_says_battery


def _psutil_says_battery() -> bool:
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return battery is not None and battery.power_plugged is False


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:  # not every supply says everything, and one may be unplugged meanwhile
        return ""
