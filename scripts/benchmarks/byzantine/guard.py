"""What watches a run besides the screening of each round: an auditor that trains leases again, and the gate.

The auditor draws, compares and bans by the coordinator's own rules, on weights of another precision than the workers'. What it
finds of a round holds from the next one on: an auditor of a real run takes its time, too.
"""

from __future__ import annotations

import copy
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.parity.task import DigitsTask
from benchmarks.parity.training import new_model
from coordinator.auditing import Conduct, share
from coordinator.gate import judge
from coordinator.records import Evaluation, Weights
from diffusion_at_home.audit.tolerances import full_steps, tolerances
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.kept_weights import KeptWeights
from diffusion_at_home.outer.state import RunState
from diffusion_at_home.wire.vector import VectorReader
from worker.auditor.recompute import compare
from worker.step.compute import Compute
from worker.step.one_device import OneDevice
from worker.trainer import Batch, LeaseTrainer


@dataclass(frozen=True, slots=True)
class Handed:
    """A contribution, and the lease it should be."""

    worker: int
    base: Tensor
    """fp32 (n,)."""
    batches: Sequence[Batch]
    seed: int
    learning_rate: float
    data: bytes
    """As it travelled."""
    images: int
    weights: KeptWeights
    """How its worker says that it kept its weights."""


class Auditor:
    """Trains drawn leases again."""

    def __init__(self, config: RunConfig, task: DigitsTask) -> None:
        model, self._layout = new_model(config, task)
        stepper = OneDevice(config, model, self._layout, Compute(torch.device("cpu"), autocast=True))
        self._trainer = LeaseTrainer(config, stepper)
        self._config = config
        self._chance = random.Random(config.run.seed)  # noqa: S311 -- nobody guesses here
        self._conducts: defaultdict[int, Conduct] = defaultdict(Conduct)
        self.images = 0
        """Trained again."""

    def banned(self, worker: int) -> bool:
        """Whether it disagreed too often."""
        return self._conducts[worker].disagreed >= self._config.audit.strikes

    def look_at(self, handed: Sequence[Handed], *, all_of_them: bool = False) -> list[int]:
        """Draw from what a round was made of, or take all, unless a worker is banned; returns whose disagreed."""
        found = []
        for one in handed:
            conduct = self._conducts[one.worker]
            drawn = all_of_them or self._chance.random() < share(conduct, self._config.audit)
            if drawn and not self.banned(one.worker):
                agrees = self._agrees(one)
                if agrees is not None:
                    conduct.learn(agrees)
                    found += [] if agrees else [one.worker]
        return found

    def _agrees(self, one: Handed) -> bool | None:
        """None where nothing can be said."""
        self.images += one.images
        trained = self._trainer.train(one.base, one.batches, seed=one.seed, learning_rate=one.learning_rate)
        codec = self._config.codec.delta
        found = compare(VectorReader(memoryview(one.data), codec, self._layout.num_elements), codec, trained.delta)
        allowed = tolerances(codec, one.learning_rate, full_steps(self._config.inner, one.images))
        if allowed.close.allows(found):
            return True
        honest = allowed.loose if one.weights is KeptWeights.ROUNDED else allowed.doubtful
        return None if honest.allows(found) else False


@dataclass(slots=True)
class Guard:
    """Auditor and gate of one training."""

    config: RunConfig
    auditor: Auditor
    loss: Callable[[Tensor], float]
    """Held-out loss of weights, fp32 (n,)."""
    losses: list[tuple[int, float]] = field(default_factory=list)
    """Images and held-out loss of all versions that were evaluated, also of those that were gone back from."""
    rollbacks: int = 0
    bans: dict[int, int] = field(default_factory=dict)
    """Leases that a worker had handed in when it was banned."""
    _evaluations: list[Evaluation] = field(default_factory=list)
    _good: RunState | None = None
    _since: list[Handed] = field(default_factory=list)
    """What was handed in since the last good version."""
    _leases: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))

    def after(self, handed: Sequence[Handed], state: RunState) -> tuple[RunState, list[int]]:
        """A round made `state`: where the run goes on from, and whose contributions disagreed."""
        for one in handed:
            self._leases[one.worker] += 1
        disagreed = self.auditor.look_at(handed)
        self._since += handed
        last = self._evaluations[-1].images if self._evaluations else 0
        if state.images - last >= self.config.evaluation.every_images or state.images >= self.config.run.total_images:
            loss = self.loss(state.published)
            self.losses.append((state.images, loss))
            evaluation = Evaluation(state.version, Weights.RAW, state.images, loss, ())
            if self._good is not None and judge([*self._evaluations, evaluation], self.config.gate):
                self.rollbacks += 1
                disagreed += self.auditor.look_at(self._since, all_of_them=True)
                state = copy.deepcopy(self._good)
            else:
                self._evaluations.append(evaluation)
                self._good = copy.deepcopy(state)
            self._since.clear()
        for worker in disagreed:
            if self.auditor.banned(worker):
                self.bans.setdefault(worker, self._leases[worker])
        return state, disagreed

    def greatest_rise(self) -> float:
        """Of held-out loss, above the least before: what was lost for a time."""
        rise, least = 0.0, self.losses[0][1]
        for _, loss in self.losses:
            rise, least = max(rise, loss / least - 1), min(least, loss)
        return rise
