"""What only a CUDA device can show: that plans hold there, and that copies beside the arithmetic race with nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.model.build import build_model
from diffusion_at_home.model.text import placeholder_tokenizer
from diffusion_at_home.wire.layout import Layout
from tests.unit.tiny_run import REPOSITORY, batches, spread_weights, tiny_config, tiny_model, tiny_tokenizer
from worker.device import open_device
from worker.memory.choice import CUDA_BYTES, GIB, Machine
from worker.memory.measure import measure
from worker.memory.planning import make_plan
from worker.ranks.ranks import Ranks
from worker.selftest.check import require_sound
from worker.settings import Device, WorkerSettings
from worker.step.compute import Compute
from worker.step.masters import WeightKind
from worker.step.one_device import OneDevice
from worker.step.out_of_memory import give_back_memory
from worker.step.plan import Offload, StepPlan
from worker.trainer import Batch, LeaseTrainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(1800),
]

SETTINGS = WorkerSettings(device=Device.CUDA)
INNER = ("model.prx.hidden_size=64", "inner.optimizer='adamw8bit'", "inner.clip='tensor'")


@pytest.fixture
def compute() -> Compute:
    return open_device(SETTINGS)


@pytest.fixture
def whole_card() -> Iterator[None]:
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    give_back_memory()


def samples(config: RunConfig, count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    shape = (config.inner.batch_images, *config.model.sample_shape)
    captions = ["a caption"] * config.inner.batch_images
    return [Batch(torch.randn(shape, generator=generator), captions) for _ in range(count)]


@pytest.mark.usefixtures("whole_card")
@pytest.mark.parametrize("gib", [6, 8])
def test_860_million_parameters_train_twenty_steps_in_a_share_of_the_card(
    compute: Compute, gib: int, record_property: Callable[[str, object], None]
) -> None:
    config = load_toml(REPOSITORY / "configs" / "sd-unet.toml", RunConfig)
    tokenizer = placeholder_tokenizer(config.model.text)
    machine = Machine(gib * GIB, 64 * GIB, is_gpu=True, bf16=compute.autocast)
    rung = make_plan(config, tokenizer, machine).chosen
    assert rung is not None
    total = torch.cuda.get_device_properties(compute.device).total_memory
    # The context lies outside of what torch counts.
    torch.cuda.set_per_process_memory_fraction((gib * GIB - CUDA_BYTES) / total)
    model = build_model(config.model, config.objective, tokenizer, 0)
    layout = Layout.of(model)
    base = layout.flatten(model)
    trainer = LeaseTrainer(config, OneDevice(config, model, layout, compute, rung.plan))
    torch.cuda.reset_peak_memory_stats()
    started = time.monotonic()
    trained = trainer.train(base, samples(config, 20), seed=0, learning_rate=1e-5)
    seconds = time.monotonic() - started
    peak = torch.cuda.max_memory_allocated()
    share = 20 * rung.need.flops / seconds
    record_property("images_per_second", trained.images / seconds)
    record_property("tflops", share / 1e12)
    record_property("peak_gib", peak / GIB)
    record_property("planned_gib", rung.need.device_bytes / GIB)
    assert trained.images == 20
    assert bool(torch.isfinite(trained.delta).all())
    assert peak == pytest.approx(rung.need.device_bytes, rel=0.1)


@pytest.mark.usefixtures("whole_card")
@pytest.mark.parametrize(
    "plan",
    [
        StepPlan(),
        StepPlan(release=True),
        StepPlan(WeightKind.SPLIT, checkpointing=True, release=True),
        StepPlan(WeightKind.STOCHASTIC, checkpointing=True, release=True),
        StepPlan(WeightKind.STOCHASTIC, checkpointing=True, release=True, offload=Offload.STATE),
    ],
    ids=str,
)
def test_each_plan_needs_what_was_planned(compute: Compute, plan: StepPlan) -> None:
    config = load_toml(REPOSITORY / "configs" / "prx-350m.toml", RunConfig)
    tokenizer = placeholder_tokenizer(config.model.text)
    need = measure(config, tokenizer, plan, autocast=compute.autocast)
    model = build_model(config.model, config.objective, tokenizer, 0)
    layout = Layout.of(model)
    base = layout.flatten(model)
    trainer = LeaseTrainer(config, OneDevice(config, model, layout, compute, plan))
    torch.cuda.reset_peak_memory_stats()
    trainer.train(base, samples(config, 3), seed=0, learning_rate=1e-5)
    assert torch.cuda.max_memory_allocated() == pytest.approx(need.device_bytes, rel=0.1)


def lease(plan: StepPlan, compute: Compute) -> Tensor:
    """The delta of twenty steps, by ranks where the plan wants them."""
    config = tiny_config(*INNER)
    model = tiny_model(config)
    spread_weights(model)
    layout = Layout.of(model)
    base = layout.flatten(model)
    stepper = (
        Ranks(config, tiny_tokenizer(config), layout, SETTINGS, plan)
        if plan.sharded
        else OneDevice(config, model, layout, compute, plan)
    )
    delta = LeaseTrainer(config, stepper).train(base, batches(20), seed=3, learning_rate=1e-3).delta.clone()
    stepper.close()
    return delta


@pytest.mark.parametrize("weights", list(WeightKind))
def test_state_on_the_host_trains_as_state_on_the_card(compute: Compute, weights: WeightKind) -> None:
    plan = StepPlan(weights, release=True)
    assert torch.equal(lease(replace(plan, offload=Offload.STATE), compute), lease(plan, compute))


def test_blocks_on_the_host_train_as_blocks_on_the_card(compute: Compute) -> None:
    plan = StepPlan(WeightKind.SPLIT, release=True)
    far, near = lease(replace(plan, offload=Offload.BLOCKS), compute), lease(plan, compute)
    assert float((far - near).norm() / near.norm()) < 1e-2


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_cards_train_as_one(compute: Compute) -> None:
    plan = StepPlan(WeightKind.SPLIT, release=True)
    two, one = lease(replace(plan, devices=2), compute), lease(plan, compute)
    assert float((two - one).norm() / one.norm()) < 5e-2


def test_a_sound_card_is_told_from_a_wrong_one_with_room_to_spare(
    compute: Compute, record_property: Callable[[str, object], None]
) -> None:
    tested = require_sound(compute)
    record_property("worst", str(tested.worst))
    record_property("seconds", tested.seconds)
    assert tested.worst.excess < 0.5
