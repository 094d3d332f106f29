"""A lease whose plan runs out of memory all the same: it is trained by a smaller one, and every sample counts once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.errors import HardwareError, LeaseLost
from tests.unit.tiny_run import captions, tiny_config, tiny_tokenizer
from worker.memory.choice import GIB, Machine
from worker.memory.planning import WorkPlan
from worker.planned_trainer import PlannedTrainer
from worker.step.plan import StepPlan
from worker.step.stepper import Drawn
from worker.trainer import Batch, Trained

STEPS, IMAGES = 3, 2
NUM_SAMPLES = STEPS * IMAGES

WHOLE = StepPlan()
SINGLE = StepPlan(micro_batch_images=1)
RELEASE = StepPlan(release=True)
SMALLEST = StepPlan(release=True, checkpointing=True)

HUNGER = {WHOLE: 4, SINGLE: 3, RELEASE: 2, SMALLEST: 1}
"""What a step by each plan takes of a device."""


class Counter:
    """A stepper whose delta tells how often each sample was trained since `start`."""

    def __init__(self, plan: StepPlan, device: Device) -> None:
        self.plan = plan
        self._device = device
        self._counts = torch.zeros(0)
        self._base = torch.zeros(0)
        self._steps = 0

    def start(self, base: Tensor, seed: int, learning_rate: float) -> None:  # noqa: ARG002 -- nothing is learned
        self._base, self._counts, self._steps = base, torch.zeros_like(base), 0

    def step(self, drawn: Drawn) -> float:
        self._steps += 1
        if self._steps == self._device.full_at_step:
            self.plan = self._device.made_room(self.plan)
        self._counts[drawn.x_BCHW[:, 0, 0, 0].long()] += 1
        return 1.0

    def delta(self) -> Tensor:
        return self._counts

    def close(self) -> None:
        self._device.opened -= 1


class Device:
    """Has room for one stepper of some hunger; at a given step of each lease it shows."""

    def __init__(self, room: int, *, full_at_step: int = 2, adapts: bool = False) -> None:
        self.full_at_step = full_at_step
        self.opened = 0
        self.tried: list[StepPlan] = []
        """By which plans steppers were opened."""
        self.room = room
        self._adapts = adapts

    def open(self, plan: StepPlan) -> Counter:
        assert self.opened == 0, "the last stepper still has the memory"
        self.opened += 1
        self.tried.append(plan)
        return Counter(plan, self)

    def made_room(self, plan: StepPlan) -> StepPlan:
        """The plan by which a step goes on that was begun by `plan`."""
        while HUNGER[plan] > self.room:
            smaller = plan.halved(IMAGES) if self._adapts else None
            if smaller is None:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            plan = smaller
        return plan


class Work:
    """A worker's trainer on `device`, and the files of its plans."""

    def __init__(self, device: Device, folder: Path) -> None:
        self.device = device
        self.told: list[StepPlan] = []
        """By `on_plan`."""
        self.passes = 0
        """How often the samples were asked for."""
        self._folder = folder
        self._trainer = PlannedTrainer(config(), self.plan(), device.open, self.told.append)

    def plan(self) -> WorkPlan:
        machine = Machine(8 * GIB, 8 * GIB, is_gpu=False, bf16=False)
        return WorkPlan(config(), tiny_tokenizer(config()), machine, self._folder)

    def lease(self, on_step: Callable[[int, float], None] = lambda _images, _loss: None) -> Trained:
        base = torch.arange(float(NUM_SAMPLES))
        trained = self._trainer.train(
            base, self._batches, seed=0, learning_rate=1.0, should_stop=lambda: False, on_step=on_step
        )
        assert torch.equal(base, torch.arange(float(NUM_SAMPLES)))
        return trained

    def close(self) -> None:
        self._trainer.close()

    def _batches(self) -> Iterator[Batch]:
        self.passes += 1
        for step in range(STEPS):
            samples = torch.arange(step * IMAGES, (step + 1) * IMAGES, dtype=torch.float32)
            yield Batch(samples[:, None, None, None].expand(-1, 3, 4, 4), captions(IMAGES))


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a worker that has planned and not yet trained."""
    folder = tmp_path_factory.mktemp("plans")
    assert Work(Device(4), folder).plan().step == WHOLE
    return folder


@pytest.fixture
def work(planned: Path, tmp_path: Path) -> Callable[[Device], Work]:
    """A worker's start on a device, time after time with the same files."""
    folder = tmp_path / "plans"
    shutil.copytree(planned, folder)
    return lambda device: Work(device, folder)


def config() -> RunConfig:
    return tiny_config("inner.clip='tensor'", f"inner.batch_images={IMAGES}")


def test_lease_with_memory_is_trained_by_the_first_plan(work: Callable[[Device], Work]) -> None:
    here = work(Device(4))
    assert here.lease().delta.tolist() == [1.0] * NUM_SAMPLES
    assert here.device.tried == here.told == [WHOLE]


def test_lease_without_goes_on_by_ever_smaller_plans_and_no_sample_counts_twice(work: Callable[[Device], Work]) -> None:
    here = work(Device(1))
    trained = here.lease()
    assert here.device.tried == here.told == [WHOLE, SINGLE, RELEASE, SMALLEST]
    assert trained.images == NUM_SAMPLES
    assert trained.delta.tolist() == [1.0] * NUM_SAMPLES
    here.device.room = 0
    with pytest.raises(HardwareError, match=r"the run tiny does not fit 8\.0 GiB of memory: it needs at least"):
        here.lease()
    assert here.device.opened == 0


def test_plan_that_held_is_used_by_the_next_lease_and_after_the_next_start(work: Callable[[Device], Work]) -> None:
    here = work(Device(2))
    here.lease()
    assert here.lease().delta.tolist() == [1.0] * NUM_SAMPLES
    assert here.device.tried[-1] == RELEASE
    assert here.passes == len(here.device.tried) + 1
    here.close()
    again = work(Device(2))
    again.lease()
    assert again.device.tried == again.told == [RELEASE]


def test_stepper_that_made_its_batches_smaller_is_kept_and_its_plan_remembered(work: Callable[[Device], Work]) -> None:
    here = work(Device(3, adapts=True))
    assert here.lease().delta.tolist() == [1.0] * NUM_SAMPLES
    assert here.passes == 1
    assert here.device.tried == [WHOLE]
    assert here.told == [WHOLE, SINGLE]
    assert here.plan().step == SINGLE


def test_stepper_that_cannot_make_them_small_enough_gives_way_to_the_next_plan(work: Callable[[Device], Work]) -> None:
    here = work(Device(2, adapts=True))
    assert here.lease().delta.tolist() == [1.0] * NUM_SAMPLES
    assert here.device.tried == here.told
    assert here.told[-1] == RELEASE
    assert here.plan().step == RELEASE


@pytest.mark.parametrize(
    "error",
    [LeaseLost("it was taken back", "unknown"), RuntimeError("shapes do not match"), HardwareError("no device")],
)
def test_errors_that_are_not_memory_are_passed_on_and_change_no_plan(
    work: Callable[[Device], Work], error: Exception
) -> None:
    here = work(Device(4))

    def fail(images: int, _loss: float) -> None:
        if images == 2 * IMAGES:
            raise error

    with pytest.raises(type(error), match=str(error)):
        here.lease(fail)
    assert here.device.tried == [WHOLE]
    assert here.plan().step == WHOLE
    assert here.lease().delta.tolist() == [1.0] * NUM_SAMPLES
    assert here.device.tried == [WHOLE]


def test_progress_of_the_plan_that_failed_is_told_again_from_the_start(work: Callable[[Device], Work]) -> None:
    told: list[int] = []
    work(Device(3)).lease(lambda images, _loss: told.append(images))
    assert told == [2, 2, 4, 6]
