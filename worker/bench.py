"""How fast this machine trains a run, and in how much memory: by training it on made-up samples, by the plan it would use."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.model.base import Embeddings
from worker.device import num_devices, open_device
from worker.memory.choice import GIB, Machine, Rung, describe
from worker.memory.planning import WorkPlan, this_machine
from worker.planned_trainer import PlannedTrainer
from worker.selftest.devices import require_sound_devices
from worker.settings import WorkerSettings
from worker.state_folder import StateFolder
from worker.step.plan import StepPlan
from worker.step.stepper import Stepper
from worker.steppers import TrainingSite, open_stepper
from worker.trainer import Batch


@dataclass(frozen=True, slots=True)
class Bench:
    """What was measured."""

    config: RunConfig
    machine: Machine
    rung: Rung
    self_test_seconds: float
    step_seconds: tuple[float, ...]
    """Of each step after the first."""
    device_bytes: int | None
    """Most that tensors took of a GPU; None without one, and where the work is done in other processes."""
    reserved_bytes: int | None
    """Most that was taken of it for them; None as above."""
    host_bytes: int | None
    """Most memory of the host that the processes took, added up; None where the system does not tell."""

    def plain(self) -> dict[str, Any]:
        """As it is printed."""
        lease, batch_images = self.config.lease, self.config.inner.batch_images
        need, planned_device = self.rung.need, self.rung.device_bytes if self.machine.is_gpu else None
        return {
            "run": self.config.run.name,
            "machine": describe(self.machine),
            "plan": str(self.rung.plan),
            "self_test_seconds": round(self.self_test_seconds, 3),
            "steps": len(self.step_seconds),
            "images_per_second": _spread([batch_images / seconds for seconds in self.step_seconds]),
            "step_seconds": _spread(self.step_seconds),
            "planned_device_gib": _gib(need.device_bytes if self.machine.is_gpu else None),
            "measured_device_gib": _gib(self.device_bytes),
            "planned_with_overhead_gib": _gib(planned_device),
            "measured_reserved_gib": _gib(self.reserved_bytes),
            "planned_host_gib": _gib(self.rung.host_bytes),
            "measured_host_gib": _gib(self.host_bytes),
            "lease_steps": lease.max_steps,
            "lease_seconds": round(lease.max_steps * statistics.median(self.step_seconds), 3),
        }


def bench(config: RunConfig, tokenizer_json: bytes, settings: WorkerSettings, seconds: float) -> Bench:
    """Check this machine, plan, and train for about `seconds` after one step to warm up.

    A plan that runs out of memory is replaced and remembered, as a worker would. Raises `HardwareError` if the machine computes
    wrongly or no plan fits.
    """
    started = time.monotonic()
    require_sound_devices(settings)
    self_test_seconds = time.monotonic() - started
    compute = open_device(settings)
    machine = this_machine(compute, num_devices(settings), settings)
    plan = WorkPlan(config, tokenizer_json, machine, StateFolder(settings.state_dir).plans)
    site = TrainingSite(config, tokenizer_json, compute, settings)
    layout = site.layout()
    watch = _Watch(seconds)

    def opened(step: StepPlan) -> Stepper:
        watch.begin(compute.device)
        return open_stepper(site, layout, step)

    trainer = PlannedTrainer(config, plan, opened, lambda _plan: None)
    try:
        trainer.train(
            layout.flatten(site.model()),
            lambda: _made_up(config),
            seed=config.run.seed,
            learning_rate=config.inner.learning_rate,
            should_stop=watch.over,
            on_step=watch.stepped,
        )
        on_this_gpu = machine.is_gpu and not plan.step.sharded
        return Bench(
            config=config,
            machine=machine,
            rung=plan.rung,
            self_test_seconds=self_test_seconds,
            step_seconds=watch.step_seconds,
            device_bytes=torch.cuda.max_memory_allocated() if on_this_gpu else None,
            reserved_bytes=torch.cuda.max_memory_reserved() if on_this_gpu else None,
            host_bytes=_peak_host_bytes(),
        )
    finally:
        trainer.close()


class _Watch:
    """The time of each step."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends: list[float] = []

    def begin(self, device: torch.device) -> None:
        """A plan begins, maybe after one that did not fit."""
        self._ends = []
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def stepped(self, _images: int, _loss: float) -> None:
        """A step is done; its loss was read, so the device has done it too."""
        self._ends.append(time.monotonic())

    def over(self) -> bool:
        """Whether there was enough of it; the first step only warms up."""
        return len(self._ends) > 1 and self._ends[-1] - self._ends[0] >= self._seconds

    @property
    def step_seconds(self) -> tuple[float, ...]:
        """Of all steps but the first."""
        return tuple(end - begin for begin, end in zip(self._ends, self._ends[1:], strict=False))


def _made_up(config: RunConfig) -> Iterator[Batch]:
    """Batches of the run's shape without end; what is in them changes no speed."""
    num_images, generator = config.inner.batch_images, torch.Generator().manual_seed(0)
    x_BCHW = torch.rand(num_images, *config.model.sample_shape, generator=generator) * 2 - 1
    text = Embeddings.made_up(config.model.text, num_images + 1)
    while True:
        yield Batch(x_BCHW, ["a caption"] * num_images, text=text)


def _peak_host_bytes() -> int | None:
    """Most that this process and those it started took, each at its own time."""
    process = psutil.Process()
    peaks = [_peak_bytes(pid) for pid in (os.getpid(), *(child.pid for child in process.children(recursive=True)))]
    return sum(peaks) or None


def _peak_bytes(pid: int) -> int:
    """0 for a process that is gone, and where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _spread(values: list[float] | tuple[float, ...]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _gib(size: int | None) -> float | None:
    return None if size is None else round(size / GIB, 3)
