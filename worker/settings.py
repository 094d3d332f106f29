"""A volunteer's settings: what this machine may use and where it keeps things. Nothing of a run is decided here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Self

import platformdirs
from pydantic import Field, field_validator, model_validator

from diffusion_at_home.config.toml import Section, load_toml
from worker.conditions.weekly_hours import weekly_hours

_APP: Final = "diffusion-at-home"


class Device(StrEnum):
    """What trains."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Precision(StrEnum):
    """What the forward and backward passes compute in; how weights are kept is the memory plan's."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


class When(Section):
    """When the worker may work."""

    hours: tuple[str, ...] = ()
    """Hours of the week, as in ["mon-fri 18:00-08:00", "sat,sun 00:00-24:00"], by the clock on the wall; none is always."""
    only_when_idle_minutes: Annotated[int, Field(ge=0, le=1440, strict=True)] = 0
    """Works only after so many minutes without keyboard, mouse or terminal; 0 does not ask."""
    on_battery: Annotated[bool, Field(strict=True)] = False
    """Whether it also works on battery."""
    pause_for: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = ()
    """Names of programs beside which it does not work; * and ? stand for any letters, as in ["steam_app*", "blender"]."""
    gpu_max_celsius: Annotated[int, Field(ge=0, le=120, strict=True)] = 0
    """A GPU that is so hot rests (degrees Celsius); 0 does not ask."""
    gpu_resume_celsius_below: Annotated[int, Field(ge=0, le=60, strict=True)] = 8
    """So many degrees below that it works again (degrees Celsius)."""
    gpu_max_watts: Annotated[int, Field(ge=0, le=10_000, strict=True)] = 0
    """A GPU that draws more on average over 30 seconds rests (watts); 0 does not ask."""

    @field_validator("hours")
    @classmethod
    def _hours_are_such(cls, hours: tuple[str, ...]) -> tuple[str, ...]:
        weekly_hours(hours)
        return hours

    @model_validator(mode="after")
    def _can_cool_down(self) -> Self:
        if 0 < self.gpu_max_celsius <= self.gpu_resume_celsius_below:
            raise ValueError(
                f"gpu_resume_celsius_below = {self.gpu_resume_celsius_below} is no less than gpu_max_celsius = "
                f"{self.gpu_max_celsius}: no card gets so cool, lower gpu_resume_celsius_below"
            )
        return self


class Limits(Section):
    """How much of the machine the worker may take."""

    gpus_off: tuple[Annotated[int, Field(ge=0, le=63, strict=True)], ...] = ()
    """Numbers of the GPUs that are left alone, as `nvidia-smi` counts them, as in [1]."""
    duty_percent: Annotated[int, Field(ge=1, le=100, strict=True)] = 100
    """Share of the time in which it computes; between steps it rests (percent)."""
    vram_gib: Annotated[float, Field(ge=0, strict=True)] = 0.0
    """Memory of each GPU that is planned with (GiB); 0 is all of it."""
    ram_gib: Annotated[float, Field(ge=0, strict=True)] = 0.0
    """Memory of the machine that is planned with (GiB), of which 1 GiB is left to others; 0 is all of it."""
    up_gib_per_month: Annotated[float, Field(ge=0, strict=True)] = 0.0
    """Most that contributions take of the line up in a calendar month (GiB); 0 is no cap."""
    down_gib_per_month: Annotated[float, Field(ge=0, strict=True)] = 0.0
    """Most that shards and weights take of the line down in a calendar month (GiB); 0 is no cap."""
    disk_reserve_gib: Annotated[float, Field(ge=0, strict=True)] = 1.0
    """Works only while the disk has so much left (GiB); 0 does not ask."""


class WorkerSettings(Section):
    """Everything a volunteer may set."""

    display_name: Annotated[str, Field(max_length=64)] = ""
    """Name shown to people on the run's pages (at most 64 characters); empty shows the worker's id."""
    team: Annotated[str, Field(max_length=64)] = ""
    """Team whose images yours are added to on the run's pages (at most 64 characters); empty is none."""
    device: Device = Device.AUTO
    """auto (CUDA where there is one), cpu or cuda."""
    precision: Precision = Precision.AUTO
    """auto (bf16 on a CUDA device that has it, else fp32), fp32 or bf16."""
    devices: Annotated[int, Field(ge=0, le=64, strict=True)] = 0
    """GPUs that train one lease together, or processes on a CPU; 0 takes all GPUs, or one process on a CPU."""
    threads: Annotated[int, Field(ge=0, le=1024, strict=True)] = 0
    """CPU threads to compute with; 0 takes all cores."""
    cache_gib: Annotated[float, Field(gt=0, strict=True)] = 20.0
    """Most disk for downloads and embeddings of captions (GiB); the longest unused go first."""
    up_mbit_per_second: Annotated[float, Field(ge=0, strict=True)] = 0.0
    """Most that contributions take of the line up (Mbit/s); 0 is all of it."""
    down_mbit_per_second: Annotated[float, Field(ge=0, strict=True)] = 0.0
    """Most that shards and weights take of the line down (Mbit/s); 0 is all of it."""
    retry_floor_seconds: Annotated[float, Field(gt=0, strict=True)] = 15.0
    """Longest first pause when the coordinator cannot be reached (seconds); each pause is drawn at random up to its limit."""
    retry_ceiling_seconds: Annotated[float, Field(ge=1, strict=True)] = 900.0
    """Longest pause of all, to which the limit doubles (seconds)."""
    when: When = Field(default_factory=When)
    """When it may work."""
    limits: Limits = Field(default_factory=Limits)
    """How much of the machine it may take."""
    state_dir: Path = Field(default_factory=lambda: platformdirs.user_state_path(_APP))
    """Folder of the worker's key, joined runs, log and unsent work."""
    cache_dir: Path = Field(default_factory=lambda: platformdirs.user_cache_path(_APP))
    """Folder of the downloads; may be deleted whenever no worker runs."""

    @property
    def up_bytes_per_second(self) -> float:
        """up_mbit_per_second in bytes; infinite if nothing is limited."""
        return self.up_mbit_per_second * 1e6 / 8 or math.inf

    @property
    def down_bytes_per_second(self) -> float:
        """down_mbit_per_second in bytes; infinite if nothing is limited."""
        return self.down_mbit_per_second * 1e6 / 8 or math.inf

    @property
    def cache_bytes(self) -> int:
        """cache_gib in bytes."""
        return int(self.cache_gib * 2**30)


def default_settings_file() -> Path:
    """Where a volunteer's settings are looked for when no file is named."""
    return platformdirs.user_config_path(_APP) / "worker.toml"


def load_settings(path: Path | None, overrides: Sequence[str] = ()) -> WorkerSettings:
    """What `path` or else the default file says, if there is one, then `key=value` overrides. Raises `ConfigError`."""
    default = default_settings_file()
    return load_toml(path or (default if default.exists() else None), WorkerSettings, overrides)
