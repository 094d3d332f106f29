"""The self-test: a machine whose numbers are wrong must not train, and says what differs.

Every trial is trained by the worker's own steps, in every way in which the device may be asked to compute; fp32 is always among
them, since a fault that bf16's own rounding would hide shows there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch

from diffusion_at_home.config.run import ModelKind
from diffusion_at_home.errors import HardwareError
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.wire.layout import Layout
from worker.selftest.figures import Figure, FigureKind, figures_of, read_known_answer
from worker.selftest.trials import LEARNING_RATE, Trial, trials
from worker.step.compute import Compute
from worker.step.masters import WeightKind
from worker.step.one_device import OneDevice
from worker.step.plan import StepPlan

Tolerances = Mapping[FigureKind, float]
"""How far a figure may be off, as a share of its size."""

# Measured on a CPU against binary64: lengths are off by 2e-7, directions by 1.4e-6, what was trained by 2e-6; a GPU sums in
# another order. One row of one matrix off by 1 % moves a direction by 3e-4 or more. Kernels of 8-bit updates may break ties
# in other ways.
_FP32: Final[Tolerances] = {FigureKind.LENGTH: 1e-4, FigureKind.DIRECTION: 1e-4, FigureKind.TRAINED: 1e-2}

# By cuDNN's default, fp32 convolutions read 11 significant bits of each number. Imitated on a CPU, in the forward pass alone,
# lengths are off by 2e-4 and directions by 6e-4.
_TF32: Final[Tolerances] = {FigureKind.LENGTH: 2e-3, FigureKind.DIRECTION: 1e-2, FigureKind.TRAINED: 1e-2}

# 8 significant bits. Measured on a CPU: lengths are off by up to 9e-3, directions by 5e-2, what was trained by 3e-3. A zeroed
# head of four moves a length of the transformer by 6e-2 and a direction by 0.2; what is smaller, fp32 shows.
_BF16: Final[Tolerances] = {FigureKind.LENGTH: 4e-2, FigureKind.DIRECTION: 0.2, FigureKind.TRAINED: 3e-2}


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure."""

    name: str
    expected: float
    found: float
    tolerance: float
    """Largest difference that rounding explains."""

    @property
    def excess(self) -> float:
        """The difference as a multiple of the tolerance; infinite for what is not finite."""
        off = abs(self.found - self.expected) / self.tolerance
        return off if math.isfinite(off) else math.inf

    @property
    def fine(self) -> bool:
        """Whether rounding explains the difference."""
        return self.excess <= 1


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What a device computed, and what it should have."""

    compared: tuple[Compared, ...]
    seconds: float

    @property
    def worst(self) -> Compared:
        """What differs the most."""
        return max(self.compared, key=lambda one: one.excess)

    @property
    def passed(self) -> bool:
        """Whether everything is fine."""
        return self.worst.fine


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to compute."""

    name: str
    compute: Compute
    weights: WeightKind
    bf16: bool

    def tolerances(self, trial: Trial) -> Tolerances:
        if self.bf16:
            return _BF16
        convolves = trial.config.model.kind is ModelKind.UNET
        return _TF32 if convolves and self.compute.device.type == "cuda" else _FP32


def self_test(
    compute: Compute,
    *,
    with_8bit: bool = True,
    build: Callable[[Trial], DiffusionModel] = Trial.build,
    known: Sequence[Figure] | None = None,
) -> SelfTest:
    """Train all trials on `compute`'s device; leaves torch's global random numbers and settings as they are.

    Args:
        compute: the device, and whether fp32 weights are computed with in bf16 there.
        with_8bit: whether 8-bit optimizer states are tried, too, whose kernels take seconds to load.
        build: makes a trial's model.
        known: what is to be found; by default what ships with this code.
    """
    started = time.monotonic()
    answer = {figure.name: figure for figure in (read_known_answer() if known is None else known)}
    with _one_thread():
        tried = trials(with_8bit=with_8bit)
        compared = [one for way in _ways(compute) for trial in tried for one in _compare(way, trial, build, answer)]
    return SelfTest(tuple(compared), time.monotonic() - started)


def require_sound(
    compute: Compute,
    *,
    with_8bit: bool = True,
    build: Callable[[Trial], DiffusionModel] = Trial.build,
    known: Sequence[Figure] | None = None,
) -> SelfTest:
    """See `self_test`. Raises `HardwareError` that names what differs the most, unless everything is fine."""
    tested = self_test(compute, with_8bit=with_8bit, build=build, known=known)
    if tested.passed:
        return tested
    worst = tested.worst
    on_gpu = compute.device.type == "cuda"
    machine = f"this card ({compute.device})" if on_gpu else "this processor"
    otherwise = ", or set device = 'cpu'" if on_gpu else ", and do not train with it"
    raise HardwareError(
        f"{machine} computes wrongly: {worst.name} is {worst.found:.6g}, not {worst.expected:.6g}: lower its clocks, "
        f"check its memory{otherwise}"
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Within, this process computes on one core: tensors as small as these wait for more threads rather than gain by them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _ways(compute: Compute) -> list[_Way]:
    """What any memory plan may ask of the device."""
    plain = Compute(compute.device, autocast=False)
    ways = [_Way("fp32", plain, WeightKind.FP32, bf16=False)]
    if compute.autocast:
        ways.append(_Way("bf16", compute, WeightKind.FP32, bf16=True))
        kinds = (WeightKind.SPLIT, WeightKind.STOCHASTIC)
        ways += [_Way(f"bf16 with {kind} weights", compute, kind, bf16=True) for kind in kinds]
    return ways


def _compare(
    way: _Way, trial: Trial, build: Callable[[Trial], DiffusionModel], answer: Mapping[str, Figure]
) -> list[Compared]:
    tolerances = way.tolerances(trial)
    compared = []
    for found in _train(way, trial, build):
        expected = answer[found.name]
        tolerance = tolerances[expected.kind] * expected.size
        compared.append(Compared(f"{way.name} {found.name}", expected.value, found.value, tolerance))
    return compared


def _train(way: _Way, trial: Trial, build: Callable[[Trial], DiffusionModel]) -> list[Figure]:
    model = build(trial)
    layout = Layout.of(model)
    stepper = OneDevice(trial.config, model, layout, way.compute, StepPlan(way.weights))
    stepper.start(trial.base(layout), 0, LEARNING_RATE)
    losses = [stepper.step(trial.batch(step)) for step in range(trial.steps)]
    return figures_of(trial, layout, losses, stepper.delta())
