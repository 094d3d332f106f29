"""Heat, power and cards that are switched off, by a made-up NVML library. One that is not there, or fails, hinders nothing."""

# ruff: noqa: N802 -- NVML's own names

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pynvml
import pytest

from tests.unit.fake_machine import FakeMachine, settings
from worker.conditions.cards import CardReading, NvmlCards
from worker.conditions.hindrance import IdleReason
from worker.gpu_numbers import switched_on
from worker.nvidia import card_uuids


class FakeNvml:
    """Cards with degrees and watts that a test sets; `fails` names a function that does not work."""

    def __init__(self, *cards: tuple[int, int]) -> None:
        self.cards: Sequence[tuple[int, int]] = cards
        self.fails = ""
        self.error = pynvml.NVML_ERROR_UNKNOWN
        self.num_inits = 0
        self.num_shutdowns = 0

    def _may_fail(self, name: str) -> None:
        if name == self.fails:
            raise pynvml.NVMLError(self.error)

    def nvmlInit(self) -> None:
        self._may_fail("init")
        self.num_inits += 1

    def nvmlShutdown(self) -> None:
        self._may_fail("shutdown")
        self.num_shutdowns += 1

    def nvmlDeviceGetCount(self) -> int:
        self._may_fail("count")
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self._may_fail("handle")
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        self._may_fail("uuid")
        return f"GPU-{handle}a"

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        self._may_fail("temperature")
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return self.cards[handle][0]

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        self._may_fail("power")
        return self.cards[handle][1] * 1000


def test_cards_are_read_with_the_library_opened_once() -> None:
    nvml = FakeNvml((60, 150), (40, 20))
    cards = NvmlCards(nvml)
    for _ in range(3):
        assert cards() == (CardReading(0, 60.0, 150.0), CardReading(1, 40.0, 20.0))
    cards.close()
    assert (nvml.num_inits, nvml.num_shutdowns) == (1, 1)


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_without_a_driver_there_are_no_cards(error: int) -> None:
    nvml = FakeNvml((60, 150))
    nvml.fails, nvml.error = "init", error
    assert NvmlCards(nvml)() == ()


def test_what_a_card_does_not_tell_is_left_out() -> None:
    nvml = FakeNvml((60, 150))
    cards = NvmlCards(nvml)
    for fails, reading in (
        ("power", CardReading(0, 60.0, None)),
        ("temperature", CardReading(0, None, 150.0)),
        ("handle", CardReading(0, None, None)),
    ):
        nvml.fails = fails
        assert cards() == (reading,)


def test_a_driver_that_dies_is_an_error_once_and_is_opened_anew() -> None:
    nvml = FakeNvml((60, 150))
    cards = NvmlCards(nvml)
    cards()
    nvml.fails = "count"
    with pytest.raises(pynvml.NVMLError):
        cards()
    nvml.fails = ""
    assert cards() == (CardReading(0, 60.0, 150.0),)
    assert (nvml.num_inits, nvml.num_shutdowns) == (2, 1)


def test_this_machines_driver_is_read_without_raising_or_says_that_it_is_dead() -> None:
    try:
        assert isinstance(NvmlCards()(), tuple)
    except pynvml.NVMLError:
        assert card_uuids() == ()


def states(machine: FakeMachine, celsius: Sequence[float], **when: int) -> list[str]:
    """What becomes of a card that is so hot, second after second, in periods of 2."""
    conditions = machine.conditions(settings(Path("/nowhere"), when=when, limits={"disk_reserve_gib": 0.0}))
    found = []
    for degrees in celsius:
        machine.cards = (CardReading(0, 30.0, 10.0), CardReading(1, degrees, 10.0))
        hindrance = conditions.hindrance()
        found.append("works" if hindrance is None else hindrance.reason.value)
        machine.clock.advance(2)
    return found


def test_a_hot_card_rests_until_it_is_some_degrees_cooler(tmp_path: Path) -> None:
    found = states(FakeMachine(tmp_path), [70, 79, 80, 79, 73, 72, 79, 81, 72], gpu_max_celsius=80)
    hot = "gpu_too_hot"
    assert found == ["works", "works", hot, hot, hot, "works", "works", hot, "works"]


def test_after_a_start_a_card_is_hot_until_it_was_cool(tmp_path: Path) -> None:
    found = states(FakeMachine(tmp_path), [79, 73, 70, 79], gpu_max_celsius=80, gpu_resume_celsius_below=10)
    assert found == ["gpu_too_hot", "gpu_too_hot", "works", "works"]


def test_the_sentence_names_card_and_degrees(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    machine.cards = (CardReading(0, 30.0, None), CardReading(1, 86.0, None))
    hindrance = machine.conditions(settings(tmp_path, when={"gpu_max_celsius": 80})).hindrance()
    assert hindrance is not None
    assert hindrance.sentence == ("GPU 1 has 86 degrees Celsius, see when.gpu_max_celsius: it works again at 72")


@pytest.mark.parametrize("limits", [{"gpus_off": [1]}, {}])
def test_a_card_that_does_not_train_may_be_hot(tmp_path: Path, limits: dict[str, object]) -> None:
    machine = FakeMachine(tmp_path)
    machine.cards = (CardReading(0, 30.0, 10.0), CardReading(1, 90.0, 10.0))
    device = "auto" if limits else "cpu"
    by = settings(tmp_path, device=device, when={"gpu_max_celsius": 80}, limits=limits)
    assert machine.conditions(by).hindrance() is None


def watts_of(machine: FakeMachine, watts: Sequence[float], most: int) -> list[bool]:
    """Whether it works, second after second."""
    conditions = machine.conditions(settings(Path("/nowhere"), when={"gpu_max_watts": most}))
    found = []
    for drawn in watts:
        machine.cards = (CardReading(0, 50.0, drawn),)
        hindrance = conditions.hindrance()
        assert hindrance is None or hindrance.reason is IdleReason.POWER
        found.append(hindrance is None)
        machine.clock.advance(1)
    return found


def test_power_counts_on_average_over_30_seconds(tmp_path: Path) -> None:
    peaks = [400.0 if second % 10 == 0 else 150.0 for second in range(120)]
    assert all(watts_of(FakeMachine(tmp_path), peaks, 250))


def test_a_card_that_draws_too_much_rests_until_the_average_has_come_down(tmp_path: Path) -> None:
    found = watts_of(FakeMachine(tmp_path), [300.0] * 60 + [20.0] * 60, 250)
    begins = found.index(False)
    assert 27 <= begins <= 31
    assert not any(found[begins:62])
    again = found.index(True, begins)
    assert 66 <= again <= 75  # 225 W on average: a quarter of 30 seconds at 20 W
    assert all(found[again:])


def test_every_card_off_is_a_reason_and_one_that_is_on_is_enough(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    machine.cards = (CardReading(0, None, None), CardReading(1, None, None))
    conditions = machine.conditions(settings(tmp_path, limits={"gpus_off": [0, 1]}))
    hindrance = conditions.hindrance()
    assert hindrance is not None
    assert hindrance.reason is IdleReason.GPU_OFF
    conditions.reload(settings(tmp_path, limits={"gpus_off": [0]}))
    assert conditions.hindrance() is None
    conditions.reload(settings(tmp_path, device="cpu", limits={"gpus_off": [0, 1]}))
    assert conditions.hindrance() is None


def test_a_gpu_is_switched_off_by_the_number_that_nvidia_smi_gives_it() -> None:
    cards = card_uuids(FakeNvml((1, 1), (1, 1), (1, 1)))
    assert cards == ("GPU-0a", "GPU-1a", "GPU-2a")
    assert switched_on(["2A", "0a", "1a"], [0], cards) == (0, 2)  # torch counts the fastest first
    assert switched_on(["1a"], [0], cards) == (0,)  # and only those that CUDA_VISIBLE_DEVICES shows it
    assert switched_on(["1a"], [1], cards) == ()


def test_where_nobody_knows_a_gpu_its_number_is_torchs() -> None:
    for fails in ("init", "count", "uuid"):
        nvml = FakeNvml((1, 1))
        nvml.fails = fails
        assert card_uuids(nvml) == ()
        assert nvml.num_inits == nvml.num_shutdowns
    assert switched_on(["0a", "1a"], [1], ()) == (0,)
