"""The memory plan: which way of taking a training step fits this machine, and is the fastest that does.

Tried from the fastest to the smallest. Every rung trains the same model on the same batches: none lowers the quality of what is
learned, so plain bf16 weights, which would, are not among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from diffusion_at_home.config.run import ClipKind, InnerKind, RunConfig
from diffusion_at_home.errors import HardwareError
from worker.memory.measure import Need
from worker.step.masters import WeightKind
from worker.step.plan import Offload, StepPlan

GIB: Final = 2**30

CUDA_BYTES: Final = GIB
"""What CUDA takes besides tensors: its context, the kernels' workspaces, what lies between allocated blocks."""

PROCESS_BYTES: Final = 9 * GIB // 16
"""What a worker's process takes of the host besides tensors of the model's size: Python, torch, diffusers, transformers."""

CUDA_HOST_BYTES: Final = GIB - PROCESS_BYTES
"""What CUDA adds to that: assumed, not measured."""

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
    devices: int = 1
    """Devices of that kind, used together. On a machine without GPU they are processes, which share its memory."""


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
    """What ran out of memory all the same, however small its micro-batches."""


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
        seconds = _step_seconds(need, machine)
        first_seconds = first_seconds or seconds
        rung = rung_of(plan, need, machine, slowdown=seconds / first_seconds)
        rung = replace(rung, fits=rung.fits and replace(plan, micro_batch_images=0) not in failed)
        rungs.append(rung)
        if rung.fits and chosen is None:
            chosen = rung
            if not try_all:
                break
    return MemoryPlan(tuple(rungs), chosen, failed)


def ladder(config: RunConfig, machine: Machine) -> Iterator[StepPlan]:
    """Plans that suit the run, from the fastest to the smallest."""
    inner, devices = config.inner, usable_devices(config, machine)
    release = inner.clip is ClipKind.TENSOR and inner.optimizer is not InnerKind.GRADIENT
    plain = StepPlan(devices=devices)
    yield plain
    if release:
        plain = replace(plain, release=True)
        yield plain
    kinds = [WeightKind.FP32]
    # A mean gradient moves no weights: there is nothing to keep exact.
    if machine.is_gpu and machine.bf16 and inner.optimizer is not InnerKind.GRADIENT:
        kinds = [WeightKind.SPLIT, WeightKind.STOCHASTIC]
        yield replace(plain, weights=WeightKind.SPLIT)
    small = replace(plain, checkpointing=True)
    yield small
    share = -(-inner.batch_images // devices)
    if not release and share > 1:
        small = replace(small, micro_batch_images=-(-share // 4))
        yield small
    for offload in Offload if machine.is_gpu else ():
        for kind in kinds:
            rung = replace(small, weights=kind, offload=offload)
            if rung != small:
                yield rung


def usable_devices(config: RunConfig, machine: Machine) -> int:
    """Of the machine's devices those that one lease can use."""
    if config.inner.optimizer is InnerKind.MUON:  # makes whole matrices orthogonal, which FSDP cuts
        return 1
    return min(machine.devices, config.inner.batch_images)


def refusal(plan: MemoryPlan, machine: Machine, run: str) -> str:
    """Why no rung fits, and what would."""
    assert plan.chosen is None
    # The rung that asks least of the device, and of those the one that asks least of the host.
    smallest = min(plan.rungs, key=lambda rung: (round(rung.device_bytes / GIB, 1), rung.host_bytes))
    device_bytes, host_bytes = smallest.device_bytes + _OTHERS_DEVICE_BYTES, smallest.host_bytes + _OTHERS_HOST_BYTES
    enough = replace(machine, device_bytes=device_bytes, host_bytes=host_bytes, devices=smallest.plan.devices)
    less = "" if machine.bf16 or not machine.is_gpu else ", or less on a GPU that computes in bf16"
    return f"the run {run} does not fit {describe(machine)}: it needs at least {describe(enough)}{less}"


def describe(machine: Machine) -> str:
    """A machine in words: `a GPU of 6.0 GiB and 16.0 GiB of memory`."""
    if not machine.is_gpu:
        processes = f"{machine.devices} processes in " if machine.devices > 1 else ""
        return f"{processes}{_gib(machine.host_bytes)} of memory"
    gpus = "a GPU" if machine.devices == 1 else f"{machine.devices} GPUs"
    return f"{gpus} of {_gib(machine.device_bytes)} and {_gib(machine.host_bytes)} of memory"


def rung_of(plan: StepPlan, need: Need, machine: Machine, *, slowdown: float) -> Rung:
    """What `plan` asks of `machine`, and whether that is there."""
    processes = 1 + plan.devices if plan.sharded else 1
    host_bytes = processes * (PROCESS_BYTES + (CUDA_HOST_BYTES if machine.is_gpu else 0)) + need.host_bytes(
        plan.devices
    )
    device_bytes = need.device_bytes + (CUDA_BYTES if machine.is_gpu else 0)
    if not machine.is_gpu:
        host_bytes += plan.devices * device_bytes
    if not machine.is_gpu and not plan.sharded:  # where the delta comes when gradients and activations are gone
        host_bytes -= min(need.vector_bytes, need.gradients_bytes + need.activations_bytes)
    device_fits = not machine.is_gpu or device_bytes <= machine.device_bytes - _OTHERS_DEVICE_BYTES
    fits = device_fits and host_bytes <= machine.host_bytes - _OTHERS_HOST_BYTES
    return Rung(plan, need, device_bytes, host_bytes, slowdown, fits)


def encodes_on_device(num_bytes: int, rung: Rung, machine: Machine, run: str) -> bool:
    """Whether captions are encoded on the device, which takes `num_bytes` beside all that `rung` does there; else on the host.

    The encoder passes through the host on its way to a device. Raises `HardwareError` if it does not fit there.
    """
    held_bytes = rung.host_bytes
    if not machine.is_gpu:  # gradients and activations come with a step
        held_bytes -= rung.plan.devices * (rung.need.gradients_bytes + rung.need.activations_bytes)
    host_bytes = max(held_bytes, 0) + num_bytes + _OTHERS_HOST_BYTES
    if host_bytes > machine.host_bytes:
        enough = replace(machine, host_bytes=host_bytes)
        raise HardwareError(
            f"the run {run} does not fit {describe(machine)}: to encode its captions, which takes {_gib(num_bytes)} beside the "
            f"training, it needs at least {describe(enough)}"
        )
    return machine.is_gpu and rung.device_bytes + num_bytes <= machine.device_bytes - _OTHERS_DEVICE_BYTES


def _step_seconds(need: Need, machine: Machine) -> float:
    moved = 2 * need.offloaded_bytes if machine.is_gpu else 0
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
