"""How hot each NVIDIA card is and what it draws, asked of NVML again and again: a library or card that is not there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pynvml

from worker.settings import Device, WorkerSettings

_NOTHING_THERE: Final = frozenset({pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED})


@dataclass(frozen=True, slots=True)
class CardReading:
    """One card at one moment."""

    index: int
    """Its number in `nvidia-smi`."""
    celsius: float | None
    """None where the card does not tell."""
    watts: float | None
    """None where the card does not tell."""


class CardSensor(Protocol):
    """What reads the cards."""

    def __call__(self) -> tuple[CardReading, ...]:
        """All of this machine."""


class NvmlCards:
    """See `CardSensor`. The library stays open from one reading to the next, and is opened anew when it has failed."""

    def __init__(self, nvml: Any = pynvml) -> None:
        """`nvml` is the library, or what stands in for it."""
        self._nvml = nvml
        self._open = False

    def __call__(self) -> tuple[CardReading, ...]:
        """See `CardSensor`. Raises `pynvml.NVMLError` if the driver is there and does not answer."""
        try:
            if not self._open:
                self._nvml.nvmlInit()
                self._open = True
            return tuple(self._read(index) for index in range(self._nvml.nvmlDeviceGetCount()))
        except pynvml.NVMLError as error:
            self.close()
            if error.value in _NOTHING_THERE:
                return ()
            raise

    def close(self) -> None:
        """Let go of the library."""
        if self._open:
            self._open = False
            self._told(self._nvml.nvmlShutdown)

    def _read(self, index: int) -> CardReading:
        handle = self._told(self._nvml.nvmlDeviceGetHandleByIndex, index)
        if handle is None:  # a card that has fallen off the bus
            return CardReading(index, None, None)
        celsius = self._told(self._nvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
        milliwatts = self._told(self._nvml.nvmlDeviceGetPowerUsage, handle)
        return CardReading(
            index,
            None if celsius is None else float(celsius),
            None if milliwatts is None else milliwatts / 1000,
        )

    def _told(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return ask(*arguments)
        except pynvml.NVMLError:
            return None


def cards_used(cards: Iterable[CardReading], settings: WorkerSettings) -> list[CardReading]:
    """Those that may train: none where a processor does, and none that is switched off."""
    if settings.device is Device.CPU:
        return []
    return [card for card in cards if card.index not in settings.limits.gpus_off]
