"""Plans for this machine or an imagined one, remembered: the same run, machine and code give the same plan."""

from __future__ import annotations

import hashlib
from pathlib import Path

import psutil
import torch
from pydantic import TypeAdapter, ValidationError

from diffusion_at_home import __version__
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.errors import HardwareError
from worker.atomic_file import write_atomically
from worker.memory.choice import Machine, MemoryPlan, plan_memory, refusal
from worker.memory.measure import measure
from worker.step.compute import Compute
from worker.step.plan import StepPlan

_PLAN = TypeAdapter(MemoryPlan)


def this_machine(compute: Compute) -> Machine:
    """The machine that `compute` is part of."""
    host_bytes = psutil.virtual_memory().total
    if compute.device.type != "cuda":
        return Machine(host_bytes, host_bytes, is_gpu=False, bf16=compute.autocast)
    device_bytes = torch.cuda.get_device_properties(compute.device).total_memory
    return Machine(device_bytes, host_bytes, is_gpu=True, bf16=compute.autocast)


def make_plan(config: RunConfig, tokenizer_json: bytes, machine: Machine, *, try_all: bool = False) -> MemoryPlan:
    """Measure until a rung fits, or all of them."""
    return plan_memory(
        config,
        machine,
        lambda plan: measure(config, tokenizer_json, plan, autocast=machine.bf16),
        try_all=try_all,
    )


def plan_for_work(config: RunConfig, tokenizer_json: bytes, machine: Machine, folder: Path) -> StepPlan:
    """The plan to train `config` with here, from `folder` if it was made before.

    Raises `HardwareError` that says what would fit.
    """
    path = folder / f"{_key(config, tokenizer_json, machine)}.json"
    made = _read(path)
    if made is None:
        made = make_plan(config, tokenizer_json, machine)
        write_atomically(path, _PLAN.dump_json(made, indent=1))
    if made.chosen is None:
        raise HardwareError(refusal(made, machine, config.run.name))
    return made.chosen.plan


def _read(path: Path) -> MemoryPlan | None:
    try:
        return _PLAN.validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _key(config: RunConfig, tokenizer_json: bytes, machine: Machine) -> str:
    parts = (
        config.model.model_dump_json(),
        config.objective.model_dump_json(),
        config.inner.model_dump_json(),
        hashlib.sha256(tokenizer_json).hexdigest(),
        repr(machine),
        __version__,
        torch.__version__,
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
