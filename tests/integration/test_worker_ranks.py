"""A model cut over several processes trains as one that is whole. Real ranks, which exchange over gloo on loopback."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import psutil
import pytest
import torch
from torch import Tensor

from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.errors import LeaseLost
from diffusion_at_home.model.base import Embeddings
from diffusion_at_home.wire.layout import Layout
from tests.unit.tiny_run import batches, spread_weights, tiny_config, tiny_model, tiny_tokenizer
from worker.ranks.ranks import Ranks
from worker.settings import Device, WorkerSettings
from worker.step.compute import CPU
from worker.step.masters import WeightKind
from worker.step.one_device import OneDevice
from worker.step.plan import Offload, StepPlan
from worker.trainer import Batch, LeaseTrainer

RATE = 1e-3
ADAMW = ("model.prx.hidden_size=64", "inner.optimizer='adamw'", "inner.clip='tensor'")
ADAMW8BIT = ("model.prx.hidden_size=64", "inner.optimizer='adamw8bit'", "inner.clip='tensor'")
GLOBAL = ("model.prx.hidden_size=64", "inner.optimizer='adamw'", "inner.clip='global'", "inner.clip_norm=0.5")
FROZEN = (*ADAMW, "model.text.encoder='somewhere'")
GRADIENT = ("inner.optimizer='gradient'", "outer.optimizer='adamw'")
UNET = (
    "model.kind='unet'",
    "model.image_size=32",
    "model.latents.autoencoder='somewhere'",
    "model.unet.channels=[32, 32]",
    "model.unet.layers=1",
    "model.unet.heads=2",
    "model.unet.groups=8",
    "objective.prediction='velocity'",
    "inner.optimizer='adamw'",
    "inner.clip='tensor'",
)


@cache
def start_of(overrides: tuple[str, ...]) -> tuple[RunConfig, Layout, Tensor]:
    config = tiny_config(*overrides)
    model = tiny_model(config)
    spread_weights(model)
    layout = Layout.of(model)
    return config, layout, layout.flatten(model)


@cache
def whole(plan: StepPlan, overrides: tuple[str, ...], images: int = 8) -> Tensor:
    """The delta of a lease on one device."""
    config, layout, base = start_of(overrides)
    stepper = OneDevice(config, tiny_model(config), layout, CPU, plan)
    return LeaseTrainer(config, stepper).train(base, lease_of(config, images), seed=3, learning_rate=RATE).delta


def lease_of(config: RunConfig, images: int) -> list[Batch]:
    lease = batches(3, images, shape=config.model.sample_shape)
    if not config.model.text.frozen:
        return lease
    generator = torch.Generator().manual_seed(5)
    rows = [
        torch.randn(1 + index % 3, config.model.text.hidden_size, generator=generator) for index in range(images + 1)
    ]
    return [replace(batch, text=Embeddings.of([row.bfloat16() for row in rows])) for batch in lease]


@contextmanager
def ranks(plan: StepPlan, overrides: tuple[str, ...]) -> Iterator[LeaseTrainer]:
    config, layout, _ = start_of(overrides)
    settings = WorkerSettings(threads=1, device=Device.CPU)
    stepper = Ranks(config, tiny_tokenizer(config), layout, settings, plan)
    try:
        yield LeaseTrainer(config, stepper)
    finally:
        stepper.close()


def train(trainer: LeaseTrainer, overrides: tuple[str, ...], images: int = 8) -> Tensor:
    config, _, base = start_of(overrides)
    return trainer.train(base, lease_of(config, images), seed=3, learning_rate=RATE).delta.clone()


def apart(left: Tensor, right: Tensor) -> float:
    assert right.any()
    return float((left - right).norm() / right.norm())


@pytest.mark.parametrize(
    ("devices", "plan", "overrides", "tolerance"),
    [
        (3, StepPlan(WeightKind.SPLIT, release=True, checkpointing=True), ADAMW, 3e-2),  # a bf16 network
        # Sums in another order; Adam divides by the root of small numbers, so single elements differ more.
        pytest.param(3, StepPlan(micro_batch_images=1), GLOBAL, 1e-3, marks=pytest.mark.slow),
        pytest.param(2, StepPlan(), GRADIENT, 1e-5, marks=pytest.mark.slow),
        pytest.param(
            2, StepPlan(release=True), ADAMW8BIT, 2e-2, marks=pytest.mark.slow
        ),  # blocks of 256 are cut elsewhere
        pytest.param(2, StepPlan(checkpointing=True), UNET, 1e-3, marks=pytest.mark.slow),
        pytest.param(2, StepPlan(checkpointing=True), FROZEN, 1e-3, marks=pytest.mark.slow),
    ],
    ids=["split", "micro-batches", "gradient", "8 bits", "unet", "frozen text encoder"],
)
def test_several_devices_train_as_one(
    devices: int, plan: StepPlan, overrides: tuple[str, ...], tolerance: float
) -> None:
    one = whole(replace(plan, micro_batch_images=0), overrides)
    with ranks(replace(plan, devices=devices), overrides) as trainer:
        assert apart(train(trainer, overrides), one) < tolerance
        assert torch.equal(train(trainer, overrides), train(trainer, overrides))  # every lease starts afresh


@pytest.mark.parametrize(
    ("devices", "release", "tolerance"), [(1, False, 0.0), pytest.param(2, True, 3e-2, marks=pytest.mark.slow)]
)
def test_blocks_on_the_host_train_as_blocks_on_the_device(devices: int, release: bool, tolerance: float) -> None:
    plan = StepPlan(WeightKind.SPLIT, release=release)
    with ranks(replace(plan, devices=devices, offload=Offload.BLOCKS), ADAMW) as trainer:
        assert apart(train(trainer, ADAMW), whole(plan, ADAMW)) <= tolerance


@pytest.mark.slow
def test_a_batch_of_fewer_images_than_devices_trains_as_on_one() -> None:
    with ranks(StepPlan(devices=3), ADAMW) as trainer:
        assert apart(train(trainer, ADAMW, images=2), whole(StepPlan(), ADAMW, 2)) < 1e-3


def test_a_rank_that_dies_ends_the_lease_and_the_next_one_has_new_ranks() -> None:
    config, _, base = start_of(ADAMW)
    with ranks(StepPlan(devices=2), ADAMW) as trainer:
        expected = train(trainer, ADAMW)
        stepper = trainer.stepper
        assert isinstance(stepper, Ranks)
        first = stepper.process_ids

        def kill(images: int, _loss: float) -> None:
            if images == 16:
                os.kill(first[1], signal.SIGKILL)

        with pytest.raises(LeaseLost, match="ended with exit code -9") as lost:
            trainer.train(base, lease_of(config, 8), seed=3, learning_rate=RATE, on_step=kill)
        assert lost.value.reason == "rank_died"
        assert not any(psutil.pid_exists(pid) for pid in first)
        assert torch.equal(train(trainer, ADAMW), expected)


@pytest.mark.slow
def test_a_rank_without_memory_says_so() -> None:
    _, _, base = start_of(ADAMW)
    with ranks(StepPlan(devices=2), ADAMW) as trainer:
        train(trainer, ADAMW)
        stepper = trainer.stepper
        assert isinstance(stepper, Ranks)
        rank = psutil.Process(stepper.process_ids[1])
        most = rank.memory_info().vms + 2**20
        resource.prlimit(rank.pid, resource.RLIMIT_AS, (most, most))
        huge = batches(1, 60_000)
        with pytest.raises(torch.OutOfMemoryError):
            trainer.train(base, huge, seed=3, learning_rate=RATE)
        assert stepper.process_ids == []
