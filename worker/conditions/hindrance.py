"""Why a worker that could train does not, by a volunteer's own rules: one name for scripts and one sentence for people."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class IdleReason(StrEnum):
    """The rule that keeps the worker from training."""

    PAUSED = "paused"
    PAUSED_FOR = "paused_for_a_time"
    HOURS = "outside_weekly_hours"
    IN_USE = "machine_in_use"
    BATTERY = "on_battery"
    PROGRAM = "program_runs"
    HEAT = "gpu_too_hot"
    POWER = "gpu_power"
    UP_CAP = "monthly_upload_cap"
    DOWN_CAP = "monthly_download_cap"
    DISK = "disk_full"
    DUTY = "duty_cycle"
    GPU_OFF = "gpu_switched_off"
    SETTINGS = "settings_cannot_be_read"


@dataclass(frozen=True, slots=True)
class Hindrance:
    """What keeps the worker from training now."""

    reason: IdleReason
    sentence: str
    """For people."""
    until: datetime | None
    """When it will have passed, in aware local time; None if nobody knows."""
