"""What can be told of the machine alone: device, memory, cores, folders, key."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

from diffusion_at_home.doctor import Check, checked, fine, parted, problem, skipped, warning
from diffusion_at_home.errors import ConfigError, HardwareError, StorageError, storage_errors
from diffusion_at_home.identity import Identity
from worker.device import TorchBuild
from worker.nvidia import Card, CardUser, Driver
from worker.settings import Device, WorkerSettings

_GIB: Final = 2**30

_LEAST_FREE_BYTES: Final = 256 * 2**20
"""A disk with less is full: logs and unsent work would not find room."""

_LEAST_RAM_BYTES: Final = _GIB
"""The libraries alone take about as much."""

_GET_TORCH: Final = "install a CUDA build of torch (pytorch.org/get-started)"


def check_device(
    settings: WorkerSettings, build: TorchBuild, driver: Driver | HardwareError | None, use: Callable[[], str]
) -> Check:
    """What would train, and why it is not the card if there is one.

    `driver` is what NVML says, or how it failed; `use` opens the device and says what it is, or raises `HardwareError`.
    """
    obstacle = None if settings.device is Device.CPU or build.usable else _obstacle(build, driver)
    if settings.device is Device.CUDA and obstacle is not None:
        return problem("device", *obstacle, HardwareError)

    def look() -> Check:
        used = use()
        if obstacle is not None and driver is not None:
            return warning("device", f"{used}, for {obstacle[0]}", obstacle[1])
        return fine("device", f"{used}{_versions(build, driver) if settings.device is not Device.CPU else ''}")

    return checked("device", look, "set device = 'cpu'", HardwareError)


def _obstacle(build: TorchBuild, driver: Driver | HardwareError | None) -> tuple[str, str]:
    """Why torch has no card, and what to do."""
    if driver is None:
        return "there is no NVIDIA driver here", "install the driver of your card, or set device = 'auto'"
    if isinstance(driver, HardwareError):
        return parted(driver)
    if not driver.cards:
        return f"NVIDIA driver {driver.version} finds no card", "see that the card is plugged in and powered"
    if not build.cuda:
        return f"torch {build.version} cannot use the {driver.cards[0].name}", _GET_TORCH
    if driver.cuda[0] < int(build.cuda.partition(".")[0]):
        return (
            f"NVIDIA driver {driver.version} serves CUDA {driver.cuda[0]}.{driver.cuda[1]}, "
            f"and torch {build.version} is built for CUDA {build.cuda}",
            "update the NVIDIA driver",
        )
    return (
        f"torch {build.version} does not find the {driver.cards[0].name} of NVIDIA driver {driver.version}",
        "restart this machine, and see that CUDA_VISIBLE_DEVICES does not hide the card",
    )


def _versions(build: TorchBuild, driver: Driver | HardwareError | None) -> str:
    if build.usable and isinstance(driver, Driver):
        return f", NVIDIA driver {driver.version}, torch for CUDA {build.cuda}"
    return ""


def check_vram(
    settings: WorkerSettings, driver: Driver | HardwareError | None, process_name: Callable[[int], str]
) -> list[Check]:
    """What is free on each card, and who has the rest; `process_name` names a process by its id."""
    if settings.device is Device.CPU:
        return [skipped("vram", "device = 'cpu' uses no card")]
    if driver is None:
        return [skipped("vram", "there is no NVIDIA driver here")]
    if isinstance(driver, HardwareError):
        return [skipped("vram", "the NVIDIA driver does not answer")]
    if not driver.cards:
        return [skipped("vram", f"NVIDIA driver {driver.version} finds no card")]
    return [_check_card(card, process_name) for card in driver.cards]


def _check_card(card: Card, process_name: Callable[[int], str]) -> Check:
    users = ", ".join(_shown(user, process_name) for user in card.users)
    found = f"{card.name}: {_gib(card.free_bytes)} of {_gib(card.total_bytes)} GiB free"
    if users:
        found = f"{found}; in use by {users}"
    if card.free_bytes * 2 < card.total_bytes:
        return warning("vram", found, "close what else uses the card before you train")
    return fine("vram", found)


def _shown(user: CardUser, process_name: Callable[[int], str]) -> str:
    size = "" if user.used_bytes is None else f" ({_gib(user.used_bytes)} GiB)"
    return f"{process_name(user.pid)}{size}"


def process_name(pid: int) -> str:
    """The program that process `pid` runs, as far as the system tells."""
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return f"process {pid}"


def check_ram(available_bytes: int, total_bytes: int, advice: str) -> Check:
    """What is left for a worker; `advice` is for a machine that has enough to begin with."""
    found = f"{_gib(available_bytes)} of {_gib(total_bytes)} GiB available"
    if available_bytes < _LEAST_RAM_BYTES:
        return warning("ram", found, "close other programs before you train")
    return fine("ram", found, advice)


def check_cores(threads: int, usable: int, present: int) -> Check:
    """`threads` that compute, on the cores that this process may use of those `present`."""
    found = (
        f"{threads} {'thread computes' if threads == 1 else 'threads compute'} on {usable} usable of {present} cores"
    )
    if threads > usable:
        return warning("cores", found, f"set threads = {usable}, or 0 for all of them")
    return fine("cores", found)


def usable_cores() -> int:
    """Cores that the system lets this process use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_state_dir(path: Path, free_bytes: Callable[[Path], int]) -> Check:
    """Whether the worker's own folder is there, or can be made, and can be written to."""

    def look() -> Check:
        _write_below(path)
        free = free_bytes(path)
        return _full("state_dir", path, free) or fine("state_dir", f"{path}: {_gib(free)} GiB free")

    return checked("state_dir", look, "choose another state_dir", StorageError)


def check_cache_dir(path: Path, quota_bytes: int, free_bytes: Callable[[Path], int]) -> Check:
    """The same of the folder of downloads, which may grow to `quota_bytes`."""

    def look() -> Check:
        _write_below(path)
        free = free_bytes(path)
        room = free + sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        found = f"{path}: {_gib(free)} GiB free, for a cache of up to {_gib(quota_bytes)} GiB"
        if room < quota_bytes:
            return _full("cache_dir", path, free) or warning(
                "cache_dir", found, f"free some space, or set cache_gib = {max(room * 10 // _GIB, 1) / 10}"
            )
        return _full("cache_dir", path, free) or fine("cache_dir", found)

    return checked("cache_dir", look, "choose another cache_dir", StorageError)


def _full(name: str, path: Path, free: int) -> Check | None:
    if free >= _LEAST_FREE_BYTES:
        return None
    return problem(name, f"{path}: {free // 2**20} MiB free", f"free some space or choose another {name}", StorageError)


def _write_below(path: Path) -> None:
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())


def free_disk(path: Path) -> int:
    """Bytes that this user may still write below `path`."""
    return shutil.disk_usage(path).free


def check_key(path: Path) -> Check:
    """Whether the worker's key, if it has one, is a key that nobody else can read."""

    def look() -> Check:
        if not path.exists():
            return fine("key", "none yet: the first join makes one")
        worker_id = Identity.load_or_create(path).worker_id
        if os.name == "posix" and path.stat().st_mode & 0o077:
            return warning("key", f"others on this machine may read {path}", f"chmod 600 {path}")
        return fine("key", f"worker {worker_id}")

    return checked("key", look, f"see that {path} is a file of yours", ConfigError)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:.1f}"
