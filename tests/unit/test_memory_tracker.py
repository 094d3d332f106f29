from __future__ import annotations

import gc

import pytest
import torch

from diffusion_at_home.wire.layout import Layout
from tests.unit.tiny_run import batches, tiny_config, tiny_model, tiny_tokenizer
from worker.memory.measure import measure
from worker.memory.tracker import Holds, MemoryTracker
from worker.step.compute import CPU
from worker.step.masters import WeightKind
from worker.step.plan import Offload, StepPlan
from worker.step.stepper import Drawn, ModelStepper
from worker.step.weights import DTYPES

KIB = 1024


def test_what_lives_is_counted_and_the_peak_is_remembered() -> None:
    with MemoryTracker() as tracker:
        first = torch.zeros(KIB, dtype=torch.uint8)
        second = first + 1
        assert tracker.now.total() == 2 * KIB
        del second
        third = torch.zeros(512, dtype=torch.uint8)
        assert tracker.now.total() == KIB + 512
        assert tracker.peak_bytes == 2 * KIB
        assert len(third) == 512


def test_views_and_changes_in_place_count_once() -> None:
    with MemoryTracker() as tracker:
        tensor = torch.zeros(KIB, dtype=torch.uint8)
        view = tensor[10:20].view(2, 5).add_(1)
        assert tracker.now.total() == KIB
        assert view.sum() == 10


def test_marked_bytes_move_between_kinds_and_the_host_is_not_the_device() -> None:
    before = torch.zeros(KIB, dtype=torch.uint8)
    with MemoryTracker() as tracker:
        tracker.mark([before], Holds.WEIGHTS)
        state = torch.zeros(256, dtype=torch.uint8)
        assert dict(tracker.now) == {Holds.WEIGHTS: KIB, Holds.ACTIVATIONS: 256}
        tracker.mark([state], Holds.HOST)
        tracker.forget_peak()
        assert tracker.peak_bytes == KIB
        del before
        gc.collect()
        assert tracker.now[Holds.WEIGHTS] == 0


def test_products_and_convolutions_are_counted() -> None:
    with MemoryTracker() as tracker:
        torch.zeros(4, 8) @ torch.zeros(8, 16)
        assert tracker.flops == 2 * 4 * 8 * 16


def test_attention_counts_as_the_products_that_it_is_made_of() -> None:
    query = torch.zeros(1, 2, 8, 4, requires_grad=True)
    product = 2 * 2 * 8 * 8 * 4
    with MemoryTracker() as tracker:
        answer = torch.nn.functional.scaled_dot_product_attention(query, query, query)
        assert tracker.flops == 2 * product
        answer.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        assert tracker.flops == (2 + 5) * product  # it computes the scores again


PLANS = [
    StepPlan(),
    StepPlan(release=True),
    StepPlan(WeightKind.SPLIT, release=True, checkpointing=True),
    StepPlan(WeightKind.STOCHASTIC, release=True, checkpointing=True, offload=Offload.STATE),
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_fake_step_needs_what_a_real_one_does(plan: StepPlan) -> None:
    config = tiny_config("model.prx.hidden_size=64", "inner.optimizer='adamw8bit'", "inner.clip='tensor'")
    need = measure(config, tiny_tokenizer(config), plan, autocast=False)
    real = real_peak(plan)
    assert need.device_bytes == pytest.approx(real, rel=0.02)


def real_peak(plan: StepPlan) -> int:
    """As `measure`, but every tensor has its memory."""
    config = tiny_config("model.prx.hidden_size=64", "inner.optimizer='adamw8bit'", "inner.clip='tensor'")
    model = tiny_model(config)
    layout = Layout.of(model)
    stepper = ModelStepper(config, model.to(DTYPES[plan.weights]), layout, CPU, plan)
    stepper.start(layout.flatten(model).float(), 0, 1e-3)
    assert stepper.optimizer is not None
    batch = next(iter(batches(1)))
    drawn = Drawn(
        batch.images_BCHW, batch.captions, torch.full((8,), 0.5), torch.zeros_like(batch.images_BCHW), torch.ones(8)
    )
    away = plan.offload is Offload.STATE
    with MemoryTracker() as tracker:
        tracker.mark([*model.parameters(), *model.buffers()], Holds.WEIGHTS)
        tracker.mark(stepper.weights.kept(), Holds.HOST if away else Holds.WEIGHTS)
        tracker.mark(stepper.optimizer.state(), Holds.HOST if away else Holds.OPTIMIZER)
        stepper.accumulate(drawn)
        stepper.update(8)
    return tracker.peak_bytes
