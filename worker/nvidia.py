"""What NVIDIA's driver says of its cards when it is asked once. That there is no driver is an answer, no error.

Nothing here opens a CUDA context, so what is read is the machine as others left it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import pynvml

from diffusion_at_home.errors import HardwareError

_NOTHING_THERE: Final = frozenset({pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED})


@dataclass(frozen=True, slots=True)
class CardUser:
    """A process that holds memory of a card."""

    pid: int
    used_bytes: int | None
    """None where the system does not tell."""


@dataclass(frozen=True, slots=True)
class Card:
    """One card and what is left of its memory."""

    name: str
    total_bytes: int
    free_bytes: int
    users: tuple[CardUser, ...]


@dataclass(frozen=True, slots=True)
class Driver:
    """The driver and its cards, in NVML's order."""

    version: str
    cuda: tuple[int, int]
    """Newest CUDA it can serve: major and minor."""
    cards: tuple[Card, ...]


def read_driver(nvml: Any = pynvml) -> Driver | None:
    """The driver of this machine, or None if there is none. `nvml` is the library, or what stands in for it.

    Raises `HardwareError` if there is one that does not answer.
    """
    try:
        nvml.nvmlInit()
    except pynvml.NVMLError as error:
        if error.value in _NOTHING_THERE:
            return None
        raise _dead(error) from None
    try:
        number = nvml.nvmlSystemGetCudaDriverVersion_v2()
        return Driver(
            version=nvml.nvmlSystemGetDriverVersion(),
            cuda=(number // 1000, number % 1000 // 10),
            cards=tuple(_card(nvml, index) for index in range(nvml.nvmlDeviceGetCount())),
        )
    except pynvml.NVMLError as error:
        raise _dead(error) from None
    finally:
        nvml.nvmlShutdown()


def card_uuids(nvml: Any = pynvml) -> tuple[str, ...]:
    """What tells the cards apart, in NVML's order, which is that of `nvidia-smi`; empty if the driver does not say."""
    try:
        nvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return tuple(str(nvml.nvmlDeviceGetUUID(handle)) for handle in handles)
    except pynvml.NVMLError:
        return ()
    finally:
        nvml.nvmlShutdown()


def _card(nvml: Any, index: int) -> Card:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    users = {
        process.pid: CardUser(int(process.pid), process.usedGpuMemory)
        for list_processes in (nvml.nvmlDeviceGetGraphicsRunningProcesses, nvml.nvmlDeviceGetComputeRunningProcesses)
        for process in _processes(list_processes, handle)
    }
    return Card(
        name=nvml.nvmlDeviceGetName(handle),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        users=tuple(users.values()),
    )


def _processes(list_processes: Any, handle: Any) -> list[Any]:
    try:
        return list(list_processes(handle))
    except pynvml.NVMLError:  # some drivers do not tell, in containers and under WSL
        return []


def _dead(error: pynvml.NVMLError) -> HardwareError:
    return HardwareError(
        f"the NVIDIA driver does not answer ({error}): restart this machine, or install the driver anew"
    )
