"""A fleet of which some attack: rounds of equal leases, screened and aggregated as the coordinator does."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.byzantine.attacks import ATTACKS, Attack, Scene
from benchmarks.byzantine.guard import Guard, Handed
from benchmarks.parity.task import DigitsTask
from benchmarks.parity.training import container, encoded, lease_seed, new_model
from coordinator.records import Contribution, Fault, LeaseId, Verdict
from coordinator.sketch import Sketcher
from coordinator.standing import Standing
from coordinator.verdicts import Given, Rules, decide
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.data.order import ShardRange
from diffusion_at_home.identity import WorkerId
from diffusion_at_home.kept_weights import KeptWeights
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


@dataclass(frozen=True, slots=True)
class Cast:
    """Who takes part: the first `attackers` of the `workers` attack, each after `honest_first` honest leases."""

    workers: int
    attackers: int
    attack: str
    """A name of `ATTACKS`; empty for none."""
    honest_first: int = 0

    def attacks(self, worker: int, leases: int) -> bool:
        """Whether `worker` does in the next one after so many `leases`."""
        return worker < self.attackers and leases >= self.honest_first


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


class Fleet:
    """Trains until run.total_images count."""

    def __init__(self, config: RunConfig, task: DigitsTask, cast: Cast, guard: Guard | None) -> None:
        self._config, self._cast, self._guard = config, cast, guard
        self._attack = ATTACKS.get(cast.attack, Attack())
        model, self._layout = new_model(config, task)
        self._replica = self._layout.flatten(model)
        self._state, self._screen = RunState.initial(config, self._replica), Screen(config, self._layout)
        self._trainer = LeaseTrainer(config, OneDevice(config, model, self._layout, CPU))
        self._left = [torch.zeros_like(self._replica) for _ in range(cast.workers)]
        self._before: list[list[Tensor]] = [[] for _ in range(cast.workers)]
        self._leases = [0] * cast.workers
        self._batches = task.batches(config.run.seed, config.inner.batch_images)
        self._steps = config.round.images // cast.workers // config.inner.batch_images
        self._refused = [0, 0]

    def train(self) -> Outcome:
        """Round after round."""
        number = 0
        while self._state.images < self._config.run.total_images:
            number += 1
            self._round(number)
        honest = self._cast.workers - self._cast.attackers
        return Outcome(
            self._state.published,
            self._state.ema,
            number,
            self._refused[False] / (number * honest),
            self._refused[True] / max(1, number * self._cast.attackers),
        )

    def _round(self, number: int) -> None:
        handed = self._handed_in(self._trained(number), number)
        verdicts, counted = self._screen.judge(number, [(one.worker, one.data, one.images) for one in handed])
        images = 0
        for one, verdict in zip(handed, verdicts, strict=True):
            self._refuse(one.worker, verdict.fault is not Fault.NONE)
            images += one.images if verdict.weight > 0 else 0
        chunks = self._state.advance(self._config, aggregate(self._config.aggregation, counted), images)
        update = container(self._config.codec.update, self._layout, chunks)
        self._replica = self._replica.clone()  # the auditor still needs the old one
        VectorReader(memoryview(update), self._config.codec.update, self._layout.num_elements).add_to(self._replica)
        if self._guard is None:
            return
        state, disagreed = self._guard.after(handed, self._state)
        if state is not self._state:
            self._state, self._replica = state, state.published.clone()
        for worker in disagreed:
            self._screen.standing.distrust(_name(worker))

    def _trained(self, number: int) -> list[tuple[Handed, Tensor]]:
        """The lease of each worker that gets one, and the delta it trains."""
        rate = learning_rate(self._config, self._state.images)
        found = []
        for worker in range(self._cast.workers):
            is_banned = self._guard is not None and self._guard.auditor.banned(worker)
            if is_banned or self._screen.standing.rounds_left(_name(worker), number):
                self._refuse(worker, True)
                continue
            seed = lease_seed(self._config, number, worker)
            lease = list(itertools.islice(self._batches, self._steps))
            images = self._steps * self._config.inner.batch_images
            # An attacker says what it is believed most with.
            weights = KeptWeights.ROUNDED if worker < self._cast.attackers else KeptWeights.EXACT
            asked = Handed(worker, self._replica, lease, seed, rate, b"", images, weights)
            done = self._attack.lease(lease, seed) if self._attacks(worker) else lease
            found.append((asked, self._trainer.train(self._replica, done, seed=seed, learning_rate=rate).delta))
        return found

    def _handed_in(self, trained: Sequence[tuple[Handed, Tensor]], number: int) -> list[Handed]:
        honest = [delta for asked, delta in trained if not self._attacks(asked.worker)]
        handed = []
        for asked, own in trained:
            worker, delta = asked.worker, own
            if self._attacks(worker):
                scene = Scene(own, honest, self._before[worker], lease_seed(self._config, number, 1000 + worker))
                delta = self._attack.hand_in(scene)
            if worker < self._cast.attackers:
                self._before[worker].append(delta)
            if not bool(torch.isfinite(delta).all()):  # refused when it comes, whatever the settings
                self._refuse(worker, True)
                continue
            chunks = encoded(self._config, delta, self._left[worker])
            handed.append(replace(asked, data=container(self._config.codec.delta, self._layout, chunks)))
        for asked, _ in trained:
            self._leases[asked.worker] += 1
        return handed

    def _attacks(self, worker: int) -> bool:
        return self._cast.attacks(worker, self._leases[worker])

    def _refuse(self, worker: int, is_refused: bool) -> None:
        self._refused[worker < self._cast.attackers] += is_refused


def _name(worker: int) -> WorkerId:
    return WorkerId(f"{worker:016}")


def _contribution(number: int, worker: int, round_number: int, sha256: str, images: int) -> Contribution:
    first = ShardRange(epoch=0, shard=0, start=number, count=images)
    return Contribution(
        number, LeaseId(number), _name(worker), round_number, first, sha256, 1, images, images, 0.0, 1, 1, ""
    )
