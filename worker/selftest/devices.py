"""Every device with which this machine would train, checked one after another."""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from diffusion_at_home.errors import HardwareError
from worker.device import num_devices, open_device
from worker.selftest.check import require_sound
from worker.settings import WorkerSettings
from worker.step.compute import Compute


def require_sound_devices(settings: WorkerSettings) -> None:
    """Raises `HardwareError` if one of them computes wrongly, or cannot be opened."""
    compute = open_device(settings)
    devices = num_devices(settings) if compute.device.type == "cuda" else 1  # processes share the one processor
    if devices == 1:
        _check(compute)
    else:
        require_sound_apart(settings, devices)


def require_sound_apart(settings: WorkerSettings, devices: int) -> None:
    """Check that many from a process of its own, since what a card's first use takes of its memory is not given back.

    Raises `HardwareError` as `require_sound`.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _leave_signals) as pool:
        for index in range(devices):
            try:
                pool.submit(_check_apart, settings, index).result()
            except BrokenProcessPool:
                raise HardwareError(
                    f"the process that checks device {index} was killed: set devices or device to go without it"
                ) from None


def _check(compute: Compute) -> None:
    require_sound(compute, with_8bit=compute.device.type == "cuda")  # on a processor 8-bit states save nothing


def _check_apart(settings: WorkerSettings, index: int) -> None:
    _check(open_device(settings, index))


def _leave_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the worker
        signal.signal(number, signal.SIG_IGN)
