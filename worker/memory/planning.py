"""Plans for this machine or an imagined one, remembered: the same run, machine and code give the same plan."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import psutil
import torch
from pydantic import TypeAdapter, ValidationError

from diffusion_at_home import __version__
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.errors import HardwareError
from worker.atomic_file import write_atomically
from worker.device import gpus
from worker.memory.choice import GIB, Machine, MemoryPlan, Rung, plan_memory, refusal, rung_of
from worker.memory.measure import Need, measure
from worker.settings import WorkerSettings
from worker.step.compute import Compute
from worker.step.plan import StepPlan

_PLAN = TypeAdapter(MemoryPlan)

_EVERYTHING: Final = WorkerSettings()
"""No limits."""


def this_machine(compute: Compute, devices: int, settings: WorkerSettings = _EVERYTHING) -> Machine:
    """The machine that `compute` is part of, which trains with `devices` of these, as far as `settings` let it be used."""
    limits = settings.limits
    host_bytes = _at_most(limits.ram_gib, psutil.virtual_memory().total)
    if compute.device.type != "cuda":
        return Machine(host_bytes, host_bytes, is_gpu=False, bf16=compute.autocast, devices=devices)
    there = min(torch.cuda.get_device_properties(gpu).total_memory for gpu in gpus(settings)[:devices])
    return Machine(_at_most(limits.vram_gib, there), host_bytes, is_gpu=True, bf16=compute.autocast, devices=devices)


def _at_most(limit_gib: float, there_bytes: int) -> int:
    """What may be planned with; a limit of 0 is none."""
    return min(int(limit_gib * GIB), there_bytes) if limit_gib else there_bytes


def make_plan(
    config: RunConfig,
    tokenizer_json: bytes,
    machine: Machine,
    *,
    try_all: bool = False,
    failed: tuple[StepPlan, ...] = (),
    before_each: Callable[[], None] = lambda: None,
) -> MemoryPlan:
    """Measure until a rung fits that has not `failed`, or all of them; `before_each` may raise to end that."""

    def need(plan: StepPlan) -> Need:
        before_each()
        try:
            return measure(config, tokenizer_json, plan, autocast=machine.bf16)
        except RuntimeError as error:
            if "overflow" not in str(error):
                raise
            raise HardwareError(f"no machine holds tensors as large as those of the run {config.run.name}") from None

    return plan_memory(config, machine, need, try_all=try_all, failed=failed)


class WorkPlan:
    """The plan of one run on one machine, kept in a file; steps down when the device proves it wrong."""

    def __init__(
        self,
        config: RunConfig,
        tokenizer_json: bytes,
        machine: Machine,
        folder: Path,
        before_each: Callable[[], None] = lambda: None,
    ) -> None:
        """Read the plan that was made before, or make it; `before_each` rung may raise to end that, and is raised."""
        self._before_each = before_each
        self._config = config
        self._tokenizer_json = tokenizer_json
        self._machine = machine
        self._path = folder / f"{_key(config, tokenizer_json, machine)}.json"
        self._made = _read(self._path) or self._make(())

    @property
    def rung(self) -> Rung:
        """The chosen one. Raises `HardwareError` that says what would fit, if nothing does."""
        if self._made.chosen is None:
            raise HardwareError(refusal(self._made, self._machine, self._config.run.name))
        return self._made.chosen

    @property
    def step(self) -> StepPlan:
        """How to train. Raises as `rung`."""
        return self.rung.plan

    def fall(self, failed: StepPlan) -> None:
        """`failed` ran out of memory: choose the same with smaller micro-batches, or else the next one, for good."""
        smaller = failed.halved(self._config.inner.batch_images)
        if smaller is not None:
            self.adopt(smaller)
        else:
            self._made = self._make((*self._made.failed, replace(failed, micro_batch_images=0)))

    def adopt(self, plan: StepPlan) -> None:
        """`plan`, which is none of the ladder, is the one that fits."""
        need = measure(self._config, self._tokenizer_json, plan, autocast=self._machine.bf16)
        rung = replace(rung_of(plan, need, self._machine, slowdown=1.0), fits=True)
        self._keep(MemoryPlan((rung,), rung, self._made.failed))

    def _make(self, failed: tuple[StepPlan, ...]) -> MemoryPlan:
        return self._keep(
            make_plan(self._config, self._tokenizer_json, self._machine, failed=failed, before_each=self._before_each)
        )

    def _keep(self, made: MemoryPlan) -> MemoryPlan:
        self._made = made
        write_atomically(self._path, _PLAN.dump_json(made, indent=1))
        return made


def _read(path: Path) -> MemoryPlan | None:
    try:
        return _PLAN.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _key(config: RunConfig, tokenizer_json: bytes, machine: Machine) -> str:
    parts = (
        config.model.model_dump_json(),
        config.objective.model_dump_json(),
        config.inner.model_dump_json(),
        repr(config.codec.feedback),
        hashlib.sha256(tokenizer_json).hexdigest(),
        repr(machine),
        __version__,
        *(importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers", "bitsandbytes")),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
