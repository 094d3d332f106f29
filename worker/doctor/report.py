"""All the questions, in order, and what the answers come to."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Final

import psutil

from diffusion_at_home.clock import SystemClock
from diffusion_at_home.doctor import Check, Diagnosis, checked, failed, skipped
from diffusion_at_home.errors import DahError, HardwareError, StorageError
from worker.device import describe, num_devices, num_threads, open_device, torch_build, try_out
from worker.doctor.coordinator import NAMES, Visit, doctors_http
from worker.doctor.deadline import Deadline
from worker.doctor.machine import (
    check_cache_dir,
    check_cores,
    check_device,
    check_key,
    check_ram,
    check_state_dir,
    check_vram,
    free_disk,
    process_name,
    usable_cores,
)
from worker.joining import workplace
from worker.nvidia import Driver, read_driver
from worker.run_address import RunAddress
from worker.settings import WorkerSettings
from worker.state_folder import StateFolder
from worker.whereabouts import Workplace

_AT_MOST: Final = timedelta(seconds=10)
"""For everything that is asked of the coordinator."""


def diagnose(settings: WorkerSettings, url: str | None) -> Diagnosis:
    """Look at this machine, and at the run at `url` or the one joined last.

    Raises `ConfigError` if `url` is no address: any other failure is a line.
    """
    place: Workplace | Check = Workplace((RunAddress.parse(url),)) if url is not None else _last_joined(settings)
    machine = _examine_machine(settings, place)
    if isinstance(place, Check):
        others = [place if name == "http" else skipped(name, place.found) for name in NAMES]
        return Diagnosis((*machine, *others))
    clock = SystemClock()
    with doctors_http(place.address) as http:
        visit = Visit(place=place, http=http, deadline=Deadline(_AT_MOST, clock), clock=clock)
        return Diagnosis((*machine, *visit.checks()))


def _last_joined(settings: WorkerSettings) -> Workplace | Check:
    try:
        folder = StateFolder(settings.state_dir)
        if not folder.joined_runs():
            return skipped("http", "no run has been joined yet: name its address")
        return workplace(folder, ())
    except StorageError:
        return skipped("http", "state_dir does not tell which run was joined")
    except DahError as error:
        return failed("http", error, "name the run's address")


def _examine_machine(settings: WorkerSettings, place: Workplace | Check) -> list[Check]:
    driver = _driver()  # first: our own use of a card must not count as somebody's
    memory = psutil.virtual_memory()
    device = check_device(settings, torch_build(), driver, lambda: _use_device(settings))
    where = "URL" if isinstance(place, Check) else str(place.address)
    plan = f"dah worker plan {where} tells whether {'a' if isinstance(place, Check) else 'the'} run fits"
    return [
        device,
        *check_vram(settings, driver, process_name),
        check_ram(memory.available, memory.total, plan),
        check_cores(num_threads(), usable_cores(), os.cpu_count() or 1),
        check_state_dir(settings.state_dir, free_disk),
        check_cache_dir(settings.cache_dir, settings.cache_bytes, free_disk),
        _check_key(settings),
    ]


def _driver() -> Driver | HardwareError | None:
    try:
        return read_driver()
    except HardwareError as error:
        return error


def _use_device(settings: WorkerSettings) -> str:
    compute = open_device(settings)
    try_out(compute)
    hardware = describe(compute, num_devices(settings))
    count = f"{hardware.num_devices} x " if hardware.num_devices > 1 else ""
    return f"{count}{hardware.device} ({hardware.device_name}) in {'bf16' if compute.autocast else 'fp32'}"


def _check_key(settings: WorkerSettings) -> Check:
    return checked("key", lambda: check_key(StateFolder(settings.state_dir).identity), "see state_dir", StorageError)
