"""The memory plan: which way of taking a training step fits this machine, and is the fastest that does.

Tried from the fastest to the smallest. Every rung trains the same model on the same batches: none lowers the quality of what is
learned, so plain bf16 weights, which would, are not among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from diffusion_at_home.config.run import ClipKind, InnerKind, RunConfig
from worker.memory.measure import Need
from worker.step.masters import WeightKind
from worker.step.plan import StepPlan

GIB: Final = 2**30

CUDA_BYTES: Final = GIB
"""What CUDA takes besides tensors: its context, the kernels' workspaces, what lies between allocated blocks."""

PROCESS_BYTES: Final = GIB
"""What a worker's process takes of the host before it has a model: Python, torch, diffusers, transformers."""

_OTHERS_DEVICE_BYTES: Final = GIB // 4
"""Of a card, left to the desktop."""

_OTHERS_HOST_BYTES: Final = GIB
"""Of the host, left to the system."""

_FLOPS_A_SECOND: Final = 10e12
"""Of a volunteer's card in bf16, assumed to tell how long offloading takes beside the arithmetic."""

_HOST_BYTES_A_SECOND: Final = 12e9
"""Between card and host, one way after the other: PCIe 4.0 with 8 lanes."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is."""

    device_bytes: int
    """Memory of the device; on a machine without GPU the same as `host_bytes`."""
    host_bytes: int
    is_gpu: bool
    bf16: bool
    """Whether the device computes in bf16."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One plan, measured."""

    plan: StepPlan
    need: Need
    device_bytes: int
    """With what the device itself takes."""
    host_bytes: int
    """With what the process itself takes."""
    slowdown: float
    """Expected time of a step, as a multiple of the first rung's."""
    fits: bool


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The rungs that were tried, from the fastest on, and the first that fits."""

    rungs: tuple[Rung, ...]
    chosen: Rung | None
    failed: tuple[StepPlan, ...] = ()
    """What ran out of memory all the same."""


Measure = Callable[[StepPlan], Need]


def plan_memory(
    config: RunConfig, machine: Machine, measure: Measure, *, try_all: bool, failed: tuple[StepPlan, ...] = ()
) -> MemoryPlan:
    """Try the ladder; unless `try_all`, stop at the first rung that fits. What `failed` before does not fit."""
    rungs: list[Rung] = []
    chosen: Rung | None = None
    first_seconds = 0.0
    for plan in ladder(config, machine):
        need = measure(plan)
        seconds = _step_seconds(need, plan, machine)
        first_seconds = first_seconds or seconds
        rung = _rung(plan, need, machine, seconds / first_seconds)
        rung = replace(rung, fits=rung.fits and plan not in failed)
        rungs.append(rung)
        if rung.fits and chosen is None:
            chosen = rung
            if not try_all:
                break
    return MemoryPlan(tuple(rungs), chosen, failed)


def ladder(config: RunConfig, machine: Machine) -> Iterator[StepPlan]:
    """Plans that suit the run, from the fastest to the smallest."""
    may_release = config.inner.clip is ClipKind.TENSOR and config.inner.optimizer is not InnerKind.GRADIENT
    plain = StepPlan()
    yield plain
    if not may_release:
        yield replace(plain, checkpointing=True)
        if config.inner.batch_images > 1:
            yield replace(plain, checkpointing=True, micro_batch_images=-(-config.inner.batch_images // 4))
        return
    yield replace(plain, release=True)
    bf16 = machine.is_gpu and machine.bf16
    if bf16:
        yield StepPlan(WeightKind.SPLIT, release=True)
    yield replace(plain, release=True, checkpointing=True)
    if bf16:
        split = StepPlan(WeightKind.SPLIT, checkpointing=True, release=True)
        stochastic = replace(split, weights=WeightKind.STOCHASTIC)
        yield split
        yield stochastic
        yield replace(split, offload=True)
        yield replace(stochastic, offload=True)


def refusal(plan: MemoryPlan, machine: Machine, run: str) -> str:
    """Why no rung fits, and what would."""
    assert plan.chosen is None
    # The rung that asks least of the device, and of those the one that asks least of the host.
    smallest = min(plan.rungs, key=lambda rung: (round(rung.device_bytes / GIB, 1), rung.host_bytes))
    device_bytes = smallest.device_bytes + _OTHERS_DEVICE_BYTES
    enough = Machine(device_bytes, smallest.host_bytes + _OTHERS_HOST_BYTES, machine.is_gpu, machine.bf16)
    less = "" if machine.bf16 or not machine.is_gpu else ", or less on a GPU that computes in bf16"
    return f"the run {run} does not fit {describe(machine)}: it needs at least {describe(enough)}{less}"


def describe(machine: Machine) -> str:
    """A machine in words: `a GPU of 6.0 GiB and 16.0 GiB of memory`."""
    gpu = f"a GPU of {_gib(machine.device_bytes)} and " if machine.is_gpu else ""
    return f"{gpu}{_gib(machine.host_bytes)} of memory"


def _rung(plan: StepPlan, need: Need, machine: Machine, slowdown: float) -> Rung:
    host_bytes = PROCESS_BYTES + need.host_bytes
    device_bytes = need.device_bytes + (CUDA_BYTES if machine.is_gpu else 0)
    if not machine.is_gpu:
        host_bytes += device_bytes
    device_fits = not machine.is_gpu or device_bytes <= machine.device_bytes - _OTHERS_DEVICE_BYTES
    fits = device_fits and host_bytes <= machine.host_bytes - _OTHERS_HOST_BYTES
    return Rung(plan, need, device_bytes, host_bytes, slowdown, fits)


def _step_seconds(need: Need, plan: StepPlan, machine: Machine) -> float:
    moved = 2 * need.offloaded_bytes if plan.offload and machine.is_gpu else 0
    return need.flops / _FLOPS_A_SECOND + moved / _HOST_BYTES_A_SECOND


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def table(rungs: Sequence[Rung], chosen: Rung | None) -> list[tuple[str, ...]]:
    """The rungs as rows of text: plan, peak, its parts, host, slowdown, whether it fits."""
    rows = []
    for rung in rungs:
        need = rung.need
        parts = (need.weights_bytes, need.gradients_bytes, need.optimizer_bytes, need.activations_bytes)
        mark = "chosen" if rung is chosen else ("fits" if rung.fits else "too large")
        sizes = (need.device_bytes, *parts, rung.device_bytes - need.device_bytes, rung.host_bytes)
        rows.append((str(rung.plan), *(f"{size / GIB:.2f}" for size in sizes), f"{rung.slowdown:.2f}x", mark))
    return rows
