"""Trains leases by the memory plan, and by the next one when the device proves it wrong.

Out of memory in spite of the plan, a lease is kept, and none of its samples enters the delta twice: a step that was not yet
begun to be applied is taken again in smaller parts (`OneDevice`); otherwise the lease starts again from its base, by the
next plan. Either way the plan that held is remembered for this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from diffusion_at_home import events
from diffusion_at_home.config.run import RunConfig
from worker.memory.planning import WorkPlan
from worker.step.out_of_memory import give_back_memory, is_out_of_memory
from worker.step.plan import StepPlan
from worker.step.stepper import Stepper
from worker.trainer import Batch, LeaseTrainer, Trained

_log = events.logger("worker")


class PlannedTrainer:
    """Opens a stepper when it is first needed, and keeps it from lease to lease."""

    def __init__(
        self,
        config: RunConfig,
        plan: WorkPlan,
        open_stepper: Callable[[StepPlan], Stepper],
        on_plan: Callable[[StepPlan], None],
    ) -> None:
        """`on_plan` is told the plan by which training goes on, whenever a stepper is opened or adapts."""
        self._config = config
        self._plan = plan
        self._open_stepper = open_stepper
        self._on_plan = on_plan
        self._stepper: Stepper | None = None

    def train(
        self,
        base: Tensor,
        batches: Callable[[], Iterable[Batch]],
        *,
        seed: int,
        learning_rate: float,
        should_stop: Callable[[], bool],
        on_step: Callable[[int, float], None],
    ) -> Trained:
        """As `LeaseTrainer.train`; `batches` starts them anew.

        Raises `HardwareError` when no plan is left, and what the stepper raises.
        """
        while True:
            try:
                trained = LeaseTrainer(self._config, self._opened()).train(
                    base,
                    batches(),
                    seed=seed,
                    learning_rate=learning_rate,
                    should_stop=should_stop,
                    on_step=on_step,
                )
                self._remember()
                return trained
            except Exception as error:  # whatever it is, it is raised again unless memory ran out
                if not is_out_of_memory(error):
                    raise
            self._fall()  # here, where the error and the tensors that its frames hold are gone

    def close(self) -> None:
        """Give back device and memory."""
        stepper, self._stepper = self._stepper, None
        if stepper is not None:
            stepper.close()

    def _opened(self) -> Stepper:
        if self._stepper is None:
            self._stepper = self._open_stepper(self._plan.step)
            self._on_plan(self._plan.step)
        return self._stepper

    def _remember(self) -> None:
        """A stepper that made its batches smaller fits; so it starts the next time."""
        assert self._stepper is not None
        if self._stepper.plan != self._plan.step:
            _log.warning("out_of_memory", plan=str(self._plan.step), next_plan=str(self._stepper.plan))
            self._plan.adopt(self._stepper.plan)
            self._on_plan(self._plan.step)

    def _fall(self) -> None:
        failed = self._plan.step if self._stepper is None else self._stepper.plan
        self.close()
        give_back_memory()
        self._plan.fall(failed)
        _log.warning("out_of_memory", plan=str(failed), next_plan=str(self._plan.step))
