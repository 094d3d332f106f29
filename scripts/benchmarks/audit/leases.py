"""The leases of one training, one after another, each computed in every way in which an honest machine may.

A lease of L steps is also every shorter one: who hands in before its end has trained the same samples, from the same base by the
same seed. So the delta after each of some numbers of steps is kept, and counts as a lease of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from benchmarks.parity.task import DigitsTask
from benchmarks.parity.training import new_model
from diffusion_at_home.config.run import RunConfig
from worker.step.compute import CPU, Compute
from worker.step.masters import WeightKind
from worker.step.one_device import OneDevice
from worker.step.plan import StepPlan
from worker.trainer import Batch, LeaseTrainer

Deltas = Mapping[int, Tensor]
"""By the number of steps, fp32 (n,)."""


@dataclass(frozen=True, slots=True)
class Variant:
    """An honest way to compute a lease."""

    name: str
    plan: StepPlan
    autocast: bool
    threads: int
    salt: int
    """Of random rounding: who has another one rounds by other bits, as another kind of machine does."""

    @property
    def stochastic(self) -> bool:
        """Whether weights are rounded at random."""
        return self.plan.weights is WeightKind.STOCHASTIC

    def rounds_like(self, other: Variant) -> bool:
        """Whether both round at random, by the same bits."""
        return self.stochastic and other.stochastic and self.salt == other.salt


_PRECISIONS: Final = {
    "fp32": (WeightKind.FP32, False),
    "autocast": (WeightKind.FP32, True),
    "split": (WeightKind.SPLIT, False),
    "stochastic": (WeightKind.STOCHASTIC, False),
}


def variants(batch_images: int) -> list[Variant]:
    """Of each precision: on one thread, on two, and on one with batches in uneven parts."""
    ways = ((1, 0, 0), (2, 0, 1), (1, -(-batch_images * 3 // 5), 0))
    return [
        Variant(
            f"{name}, {threads} threads, parts of {part}",
            StepPlan(weights, micro_batch_images=part),
            autocast,
            threads,
            salt,
        )
        for name, (weights, autocast) in _PRECISIONS.items()
        for threads, part, salt in ways
    ]


@dataclass(frozen=True, slots=True)
class Lease:
    """What a worker is asked for."""

    base: Tensor
    """fp32 (n,)."""
    before: Tensor
    """The version before, fp32 (n,)."""
    batches: Sequence[Batch]
    others: Sequence[Batch]
    """What another worker has at the same time."""
    seed: int
    learning_rate: float


class OtherRounding(OneDevice):
    """Rounds weights by other bits than the lease's seed gives."""

    salt = 0

    def start(self, base: Tensor, seed: int, learning_rate: float) -> None:
        """See `Stepper.start`."""
        super().start(base, seed + self.salt, learning_rate)


class Bench:
    """Trains leases in this process."""

    def __init__(self, config: RunConfig, task: DigitsTask, kept: Sequence[int]) -> None:
        """`kept` are the numbers of steps after which deltas are kept."""
        self._config, self._task, self._kept = config, task, frozenset(kept)
        model, self.layout = new_model(config, task)
        self._base = self.layout.flatten(model)
        self._trainers: dict[str, LeaseTrainer] = {}
        self._plain = variants(config.inner.batch_images)[0]

    def leases(self, count: int, passed: int) -> Iterator[Lease]:
        """Some leases of the most steps, with `passed` ones between each and the next that only move the weights on."""
        before, base, rate = self._base, self._base, self._config.inner.learning_rate
        batches = self._task.batches(self._config.run.seed, self._config.inner.batch_images)
        steps = max(self._kept)
        for number in range(count * (1 + passed)):
            own, others = (list(itertools.islice(batches, steps)) for _ in range(2))
            lease = Lease(base, before, own, others, 1000 + number, rate)
            if number % (1 + passed) == passed:
                yield lease
            before, base = base, base - self.honest(lease)[steps]

    def train(self, lease: Lease, variant: Variant) -> Deltas:
        """The deltas of `lease` as `variant` computes them."""
        torch.set_num_threads(variant.threads)
        if variant.name not in self._trainers:
            compute = Compute(torch.device("cpu"), autocast=True) if variant.autocast else CPU
            model, _ = new_model(self._config, self._task)
            stepper = OtherRounding(self._config, model, self.layout, compute, variant.plan)
            stepper.salt = variant.salt
            self._trainers[variant.name] = LeaseTrainer(self._config, stepper)
        trainer, deltas, done = self._trainers[variant.name], dict[int, Tensor](), itertools.count(1)

        def on_step(_images: int, _loss: float) -> None:
            if (steps := next(done)) in self._kept:
                deltas[steps] = trainer.stepper.delta()

        trainer.train(lease.base, lease.batches, seed=lease.seed, learning_rate=lease.learning_rate, on_step=on_step)
        return deltas

    def honest(self, lease: Lease) -> Deltas:
        """The same in fp32 on one thread, batches whole."""
        return self.train(lease, self._plain)
