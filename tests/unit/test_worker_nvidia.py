"""What NVML says becomes plain facts, and what it does not say is no error."""

# ruff: noqa: N802 -- NVML's own names

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from diffusion_at_home.errors import HardwareError
from worker.nvidia import Card, CardUser, Driver, read_driver

GIB = 2**30


@dataclass
class FakeNvml:
    """A machine with one card, or one that fails at `fails`."""

    fails: str = ""
    error: int = pynvml.NVML_ERROR_UNKNOWN
    num_open: int = 0

    def _say(self, name: str, value: Any) -> Any:
        if name == self.fails:
            raise pynvml.NVMLError(self.error)
        return value

    def nvmlInit(self) -> None:
        self._say("init", None)
        self.num_open += 1

    def nvmlShutdown(self) -> None:
        self.num_open -= 1

    def nvmlSystemGetDriverVersion(self) -> Any:
        return self._say("version", "550.54.14")

    def nvmlSystemGetCudaDriverVersion_v2(self) -> Any:
        return self._say("cuda", 12040)

    def nvmlDeviceGetCount(self) -> Any:
        return self._say("count", 1)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return self._say("handle", f"handle {index}")

    def nvmlDeviceGetName(self, handle: str) -> Any:
        assert handle == "handle 0"
        return "NVIDIA GeForce RTX 3060"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        assert handle == "handle 0"
        return SimpleNamespace(total=12 * GIB, free=7 * GIB, used=5 * GIB)

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: str) -> Any:
        assert handle == "handle 0"
        return self._say("processes", [SimpleNamespace(pid=10, usedGpuMemory=None)])

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> Any:
        assert handle == "handle 0"
        told = [SimpleNamespace(pid=10, usedGpuMemory=GIB), SimpleNamespace(pid=11, usedGpuMemory=2 * GIB)]
        return self._say("processes", told)


def test_a_card_is_told_with_who_uses_it_each_once() -> None:
    library = FakeNvml()
    users = (CardUser(10, GIB), CardUser(11, 2 * GIB))
    card = Card("NVIDIA GeForce RTX 3060", 12 * GIB, 7 * GIB, users)
    assert read_driver(library) == Driver("550.54.14", (12, 4), (card,))
    assert library.num_open == 0


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_without_a_driver_there_is_none(error: int) -> None:
    assert read_driver(FakeNvml(fails="init", error=error)) is None


@pytest.mark.parametrize("fails", ["init", "version", "cuda", "count", "handle"])
def test_a_driver_that_fails_is_named_and_left_closed(fails: str) -> None:
    library = FakeNvml(fails, pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    with pytest.raises(HardwareError, match=r"does not answer \(.*mismatch.*\): restart this machine"):
        read_driver(library)
    assert library.num_open == 0


def test_a_system_that_hides_processes_hides_nothing_else() -> None:
    found = read_driver(FakeNvml("processes", pynvml.NVML_ERROR_NOT_SUPPORTED))
    assert found is not None
    assert (found.cards[0].users, found.cards[0].free_bytes) == ((), 7 * GIB)


@pytest.mark.parametrize(("number", "version"), [(11080, (11, 8)), (12000, (12, 0)), (13010, (13, 1))])
def test_the_cuda_number_is_read_as_a_version(number: int, version: tuple[int, int]) -> None:
    library = FakeNvml()
    library.nvmlSystemGetCudaDriverVersion_v2 = lambda: number  # type: ignore[method-assign]
    found = read_driver(library)
    assert found is not None
    assert found.cuda == version


def test_this_machine_answers_without_raising() -> None:
    found = read_driver()
    assert found is None or found.version
