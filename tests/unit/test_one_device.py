"""Out of memory in the middle of a step, on a device that has room for few images at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffusion_at_home.wire.layout import Layout
from tests.unit.tiny_run import batches, spread_weights, tiny_config, tiny_model
from worker.step.compute import CPU
from worker.step.one_device import OneDevice
from worker.step.plan import StepPlan
from worker.trainer import LeaseTrainer, Trained

RATE = 1e-3


class Room:
    """What a forward pass may take; one that asks for more has run out of memory."""

    def __init__(self, *rooms: int) -> None:
        """Images at once in the first forward pass, in the second, and so on; the last holds for all that follow."""
        self._rooms = list(rooms)
        self.passes: list[int] = []
        """Images of each forward pass that had room."""

    def __call__(self, _model: nn.Module, inputs: tuple[Any, ...]) -> None:
        room = self._rooms.pop(0) if len(self._rooms) > 1 else self._rooms[0]
        images = len(inputs[0])
        if images > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.passes.append(images)


def lease(plan: StepPlan, room: Room) -> tuple[Trained, OneDevice]:
    config = tiny_config("inner.clip='tensor'")
    model = tiny_model(config)
    spread_weights(model)
    model.register_forward_pre_hook(room)
    layout = Layout.of(model)
    base = layout.flatten(model)
    stepper = OneDevice(config, model, layout, CPU, plan)
    return LeaseTrainer(config, stepper).train(base, batches(3), seed=3, learning_rate=RATE), stepper


def in_parts_of(size: int) -> Tensor:
    return lease(StepPlan(micro_batch_images=size), Room(size))[0].delta


def test_a_step_without_memory_is_taken_again_in_halves_and_updates_once() -> None:
    room = Room(3)
    trained, stepper = lease(StepPlan(), room)
    assert stepper.plan == StepPlan(micro_batch_images=2)
    assert room.passes == [2] * 12
    assert trained.images == 24
    assert torch.equal(trained.delta, in_parts_of(2))


def test_gradients_of_the_parts_that_had_memory_do_not_count_twice() -> None:
    room = Room(4, 2)
    trained, stepper = lease(StepPlan(micro_batch_images=4), room)
    assert stepper.plan == StepPlan(micro_batch_images=2)
    assert room.passes == [4] + [2] * 12
    assert torch.equal(trained.delta, in_parts_of(2))


def test_the_next_lease_begins_with_parts_that_have_memory() -> None:
    room = Room(4)
    config = tiny_config()
    model = tiny_model(config)
    model.register_forward_pre_hook(room)
    layout = Layout.of(model)
    base = layout.flatten(model)
    trainer = LeaseTrainer(config, OneDevice(config, model, layout, CPU))
    first, again = (trainer.train(base, batches(1), seed=3, learning_rate=RATE).delta.clone() for _ in range(2))
    assert room.passes == [4, 4, 4, 4]
    assert torch.equal(first, again)


@pytest.mark.parametrize("plan", [StepPlan(release=True), StepPlan(micro_batch_images=1)], ids=["release", "one image"])
def test_a_step_that_cannot_be_made_smaller_says_that_it_has_no_memory(plan: StepPlan) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        lease(plan, Room(0))


def test_an_error_that_is_not_memory_is_not_tried_again() -> None:
    calls: list[int] = []

    def fail(_model: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls.append(len(inputs[0]))
        raise RuntimeError("shapes do not match")

    config = tiny_config()
    model = tiny_model(config)
    model.register_forward_pre_hook(fail)
    layout = Layout.of(model)
    stepper = OneDevice(config, model, layout, CPU)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        LeaseTrainer(config, stepper).train(layout.flatten(model), batches(1), seed=0, learning_rate=RATE)
    assert calls == [8]
    assert stepper.plan == StepPlan()
