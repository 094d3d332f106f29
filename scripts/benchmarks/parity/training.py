"""The two ways to spend the same images: one node, and a fleet through the project's own code.

The fleet is the product without its sockets: `LeaseTrainer` trains, the delta is encoded and read back, `WeightedMean`
and `RunState.advance` make the next version, and the replica applies the encoded update.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.parity.task import Task
from diffusion_at_home.config.run import Codec, RunConfig
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.build import build_model
from diffusion_at_home.model.ema import ema_decay, ema_update
from diffusion_at_home.model.objective import flow_loss
from diffusion_at_home.outer.aggregation import Weighed, WeightedMean
from diffusion_at_home.outer.schedule import learning_rate
from diffusion_at_home.outer.state import RunState
from diffusion_at_home.wire.feedback import encode_with_feedback
from diffusion_at_home.wire.layout import Layout
from diffusion_at_home.wire.vector import VectorReader, encode_chunks, write_vector
from worker.step.compute import CPU
from worker.step.one_device import OneDevice
from worker.step.plan import StepPlan
from worker.step.stepper import Drawn
from worker.trainer import LeaseTrainer


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished training. The vectors are fp32 (n,)."""

    published: Tensor
    ema: Tensor
    uplink_bytes: float
    """A worker's contribution, mean over the rounds."""
    downlink_bytes: float
    """A round's update, mean over the rounds."""


class KeptAdamW:
    """Steps of a 32-bit AdamW whose state lives as long as the run: what one node does, and what a lease does not."""

    plan = StepPlan()

    def __init__(self, config: RunConfig, model: DiffusionModel, layout: Layout) -> None:
        self._config, self._model, self._layout = config, model, layout
        self._base = torch.empty(0)
        inner = config.inner
        self._optimizer = torch.optim.AdamW(
            model.parameters(), betas=(inner.beta1, inner.beta2), weight_decay=inner.weight_decay, fused=True
        )

    def start(self, base: Tensor, seed: int, learning_rate: float) -> None:  # noqa: ARG002 -- fp32 is not rounded
        """See `Stepper.start`, but for the state, which is the last lease's."""
        self._base = base.clone()
        self._layout.load(self._model, base)
        self._model.train()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    def step(self, drawn: Drawn) -> float:
        """See `Stepper.step`."""
        tokens = self._model.tokenize(drawn.captions)
        loss = flow_loss(self._model, drawn.x_BCHW, tokens, drawn.t_B, drawn.eps_BCHW, self._config.objective).mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        nn.utils.clip_grad_norm_(self._model.parameters(), self._config.inner.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(loss.detach())

    def delta(self) -> Tensor:
        """See `Stepper.delta`."""
        return self._base - self._layout.flatten(self._model)

    def close(self) -> None:
        """See `Stepper.close`."""


def one_node(config: RunConfig, task: Task) -> Outcome:
    """Plain AdamW over the run's images, with the run's schedule of the rate and its EMA."""
    model, layout = new_model(config, task)
    trainer = LeaseTrainer(config, KeptAdamW(config, model, layout))
    weights = layout.flatten(model)
    ema = weights.clone()
    batches = task.batches(config.run.seed, config.inner.batch_images)
    steps = config.round.images // config.inner.batch_images
    for number, images in enumerate(_progress(config)):
        lease = list(itertools.islice(batches, steps))
        trained = trainer.train(
            weights, lease, seed=lease_seed(config, number, 0), learning_rate=learning_rate(config, images)
        )
        weights = layout.flatten(model)
        ema_update(ema, weights, ema_decay(trained.images, config.ema.half_life_images))
    return Outcome(weights, ema, 0.0, 0.0)


def fleet(config: RunConfig, task: Task, *, workers: int, keep_state: bool) -> Outcome:
    """Rounds of `workers` equal leases, round.images together.

    `keep_state` lets each worker keep its AdamW, which the product does not.
    """
    model, layout = new_model(config, task)
    weights = layout.flatten(model)
    state, replica = RunState.initial(config, weights), weights
    kept = [
        LeaseTrainer(config, KeptAdamW(config, new_model(config, task)[0], layout))
        for _ in range(workers if keep_state else 0)
    ]
    fresh = LeaseTrainer(config, OneDevice(config, model, layout, CPU))
    left = [torch.zeros_like(weights) for _ in range(workers)]
    batches = task.batches(config.run.seed, config.inner.batch_images)
    up: list[int] = []
    down: list[int] = []
    steps = config.round.images // workers // config.inner.batch_images
    for number, images in enumerate(_progress(config)):
        rate = learning_rate(config, images)
        contributions: list[bytes] = []
        counts: list[int] = []
        for worker in range(workers):
            lease = list(itertools.islice(batches, steps))
            seed = lease_seed(config, number, worker)
            trainer = kept[worker] if keep_state else fresh
            trained = trainer.train(replica, lease, seed=seed, learning_rate=rate)
            contributions.append(container(config.codec.delta, layout, encoded(config, trained.delta, left[worker])))
            counts.append(trained.images)
        readers = [VectorReader(memoryview(data), config.codec.delta, layout.num_elements) for data in contributions]
        chunks = state.advance(
            config, WeightedMean([Weighed(one, count) for one, count in zip(readers, counts, strict=True)]), sum(counts)
        )
        update = container(config.codec.update, layout, chunks)
        VectorReader(memoryview(update), config.codec.update, layout.num_elements).add_to(replica)
        assert torch.equal(replica, state.published)
        up += [len(data) for data in contributions]
        down.append(len(update))
    return Outcome(state.published, state.ema, float(np.mean(up)), float(np.mean(down)))


def encoded(config: RunConfig, delta: Tensor, left: Tensor) -> Iterator[bytes]:
    """As a worker encodes it; `left` is what it left out so far."""
    if config.codec.feedback:
        return encode_with_feedback(config.codec.delta, delta, left, config.codec.feedback)
    return encode_chunks(config.codec.delta, delta)


def new_model(config: RunConfig, task: Task) -> tuple[DiffusionModel, Layout]:
    """The run's, with the weights of its seed."""
    model = build_model(config.model, config.objective, task.tokenizer, config.run.seed)
    return model, Layout.of(model)


def _progress(config: RunConfig) -> range:
    """Images trained before each round; the last one may pass the total."""
    return range(0, config.run.total_images, config.round.images)


def lease_seed(config: RunConfig, number: int, worker: int) -> int:
    """Of one worker's lease in one round."""
    return int(np.random.SeedSequence([config.run.seed, number, worker]).generate_state(1)[0])


def container(codec: Codec, layout: Layout, chunks: Iterator[bytes]) -> bytes:
    """As it travels."""
    out = io.BytesIO()
    write_vector(out, codec, layout.num_elements, chunks)
    return out.getvalue()
