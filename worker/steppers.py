"""Which stepper a plan asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.build import build_model
from diffusion_at_home.wire.layout import Layout
from worker.device import shapes_only
from worker.ranks.ranks import Ranks
from worker.settings import WorkerSettings
from worker.step.compute import Compute
from worker.step.one_device import OneDevice
from worker.step.plan import StepPlan
from worker.step.stepper import Stepper


@dataclass(frozen=True, slots=True)
class TrainingSite:
    """One run on one machine."""

    config: RunConfig
    tokenizer_json: bytes
    compute: Compute
    """Of the first device."""
    settings: WorkerSettings

    def model(self) -> DiffusionModel:
        """The run's model as it starts, on the CPU."""
        return build_model(self.config.model, self.config.objective, self.tokenizer_json, self.config.run.seed)

    def layout(self) -> Layout:
        """Its layout, without taking memory for its weights."""
        return Layout.of(shapes_only(self.model))


OpenStepper = Callable[[TrainingSite, Layout, StepPlan], Stepper]


def open_stepper(site: TrainingSite, layout: Layout, plan: StepPlan) -> Stepper:
    """Processes for a sharded model, else the model in this one."""
    if plan.sharded:
        return Ranks(site.config, site.tokenizer_json, layout, site.settings, plan)
    return OneDevice(site.config, site.model(), layout, site.compute, plan)
