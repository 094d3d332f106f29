"""A model whole on one device, in this process."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.host_heap import give_back_heap
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.wire.layout import Layout
from worker.step.compute import Compute
from worker.step.out_of_memory import give_back_memory, is_out_of_memory
from worker.step.plan import StepPlan
from worker.step.stepper import Drawn, ModelStepper
from worker.step.weights import DTYPES

_PLAIN = StepPlan()


class OneDevice:
    """See `Stepper`."""

    def __init__(
        self, config: RunConfig, model: DiffusionModel, layout: Layout, compute: Compute, plan: StepPlan = _PLAIN
    ) -> None:
        """Takes `model` over and brings it to the device, in the plan's dtype."""
        assert not plan.sharded
        device, dtype = compute.device, DTYPES[plan.weights]
        there = all(parameter.device == device and parameter.dtype is dtype for parameter in model.parameters())
        moved = model if there else model.to(device=device, dtype=dtype)  # fake parameters cannot be moved
        self.model = ModelStepper(config, moved, layout, compute, plan)
        self._batch_images = config.inner.batch_images
        self._base = torch.empty(0)

    @property
    def plan(self) -> StepPlan:
        """See `Stepper.plan`: the one that was given, or the same with smaller micro-batches."""
        return self.model.plan

    def start(self, base: Tensor, seed: int, learning_rate: float) -> None:
        """See `Stepper.start`."""
        self._base = base
        self.model.start(base, seed, learning_rate)

    def step(self, drawn: Drawn) -> float:
        """See `Stepper.step`. Out of memory before anything was updated, the step is taken again in smaller parts."""
        num_images = len(drawn.captions)
        while True:
            try:
                loss = self.model.accumulate(drawn)
                break
            except Exception as error:  # whatever it is, it is raised again unless memory ran out
                smaller = self.plan.halved(self._batch_images)
                if smaller is None or not is_out_of_memory(error):
                    raise
            # Here, where the error and the frames it holds are gone.
            self.model.plan = smaller
            self.model.forget_gradients()
            give_back_memory()
        self.model.update(num_images)
        return float(loss)

    def delta(self) -> Tensor:
        """See `Stepper.delta`."""
        give_back_heap()  # gradients are gone: the delta takes their place
        delta = torch.empty_like(self._base)
        self.model.delta(self._base, delta)
        return delta

    def close(self) -> None:
        """See `Stepper.close`."""
        del self.model
