"""A fleet of which some attack: rounds of equal leases, screened and aggregated as the coordinator does."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.byzantine.attacks import Attack, Scene
from benchmarks.parity.task import DigitsTask
from benchmarks.parity.training import container, encoded, lease_seed, new_model
from coordinator.records import Contribution, Fault, LeaseId, Verdict
from coordinator.sketch import Sketcher
from coordinator.standing import Standing
from coordinator.verdicts import Given, Rules, decide
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.data.order import ShardRange
from diffusion_at_home.identity import WorkerId
from diffusion_at_home.outer.aggregation import Weighed, aggregate
from diffusion_at_home.outer.schedule import learning_rate
from diffusion_at_home.outer.state import RunState
from diffusion_at_home.wire.layout import Layout
from diffusion_at_home.wire.vector import VectorReader
from worker.step.compute import CPU
from worker.step.one_device import OneDevice
from worker.trainer import LeaseTrainer


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished training. The vectors are fp32 (n,)."""

    published: Tensor
    ema: Tensor
    rounds: int
    refused_honest: float
    """Share of the honest workers' contributions that did not count."""
    refused_attackers: float
    """Share of the attackers' leases that came to nothing, those included that they did not get."""


class Screen:
    """The coordinator's part of a closing round."""

    def __init__(self, config: RunConfig, layout: Layout) -> None:
        self.standing = Standing(config.screening, {})
        self._config, self._layout = config, layout
        self._rules = Rules(config.screening, config.aggregation)
        self._sketcher = Sketcher(config.run.seed + 1)
        self._seen: set[str] = set()
        self._number = itertools.count(1)

    def judge(self, number: int, given: Sequence[tuple[int, bytes, int]]) -> tuple[list[Verdict], list[Weighed]]:
        """Of each worker's bytes and images, what counts, and how."""
        readers, found = [], []
        for worker, data, images in given:
            readers.append(self._reader(data))
            contribution = _contribution(next(self._number), worker, number, hashlib.sha256(data).hexdigest(), images)
            is_newcomer = self.standing.is_newcomer(contribution.worker_id)
            sketch = self._sketcher.sketch(readers[-1])
            found.append(Given(contribution, sketch, is_newcomer, contribution.sha256 in self._seen))
            self._seen.add(contribution.sha256)
        verdicts = decide(found, self._rules)
        self.standing.learn(verdicts)
        counted = [
            Weighed(reader, verdict.weight, verdict.scale)
            for reader, verdict in zip(readers, verdicts, strict=True)
            if verdict.fault is Fault.NONE
        ]
        return verdicts, counted

    def _reader(self, data: bytes) -> VectorReader:
        return VectorReader(memoryview(data), self._config.codec.delta, self._layout.num_elements)


def fleet(config: RunConfig, task: DigitsTask, *, workers: int, attackers: int, attack: Attack | None) -> Outcome:
    """Train until run.total_images count; the first `attackers` of the `workers` attack."""
    model, layout = new_model(config, task)
    replica = layout.flatten(model)
    state, screen = RunState.initial(config, replica), Screen(config, layout)
    trainer = LeaseTrainer(config, OneDevice(config, model, layout, CPU))
    left = [torch.zeros_like(replica) for _ in range(workers)]
    before: list[list[Tensor]] = [[] for _ in range(workers)]
    batches = task.batches(config.run.seed, config.inner.batch_images)
    steps = config.round.images // workers // config.inner.batch_images
    bad = range(attackers if attack else 0)
    refused, number = [0, 0], 0
    while state.images < config.run.total_images:
        number += 1
        rate = learning_rate(config, state.images)
        deltas: dict[int, Tensor] = {}
        for worker in range(workers):
            if screen.standing.rounds_left(_name(worker), number):
                refused[worker in bad] += 1
                continue
            seed = lease_seed(config, number, worker)
            lease = list(itertools.islice(batches, steps))
            if attack and worker in bad:
                lease = [attack.data(batch, seed + index) for index, batch in enumerate(lease)]
            deltas[worker] = trainer.train(replica, lease, seed=seed, learning_rate=rate).delta
        honest = [delta for worker, delta in deltas.items() if worker not in bad]
        given = []
        for worker, own in deltas.items():
            delta = own
            if attack and worker in bad:
                scene = Scene(own, honest, before[worker], lease_seed(config, number, 1000 + worker))
                delta = attack.hand_in(scene)
                before[worker].append(delta)
            if not bool(torch.isfinite(delta).all()):  # refused when it comes, whatever the settings
                refused[worker in bad] += 1
                continue
            data = container(config.codec.delta, layout, encoded(config, delta, left[worker]))
            given.append((worker, data, steps * config.inner.batch_images))
        verdicts, counted = screen.judge(number, given)
        for (worker, _, _), verdict in zip(given, verdicts, strict=True):
            refused[worker in bad] += verdict.fault is not Fault.NONE
        images = sum(images for (_, _, images), verdict in zip(given, verdicts, strict=True) if verdict.weight > 0)
        update = container(
            config.codec.update, layout, state.advance(config, aggregate(config.aggregation, counted), images)
        )
        VectorReader(memoryview(update), config.codec.update, layout.num_elements).add_to(replica)
    return Outcome(
        state.published,
        state.ema,
        number,
        refused[False] / (number * (workers - len(bad))),
        refused[True] / max(1, number * len(bad)),
    )


def _name(worker: int) -> WorkerId:
    return WorkerId(f"{worker:016}")


def _contribution(number: int, worker: int, round_number: int, sha256: str, images: int) -> Contribution:
    first = ShardRange(epoch=0, shard=0, start=number, count=images)
    return Contribution(
        number, LeaseId(number), _name(worker), round_number, first, sha256, 1, images, images, 0.0, 1, 1, ""
    )
