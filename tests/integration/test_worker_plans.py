"""Every part of the training step through a whole lease: a worker's process, a coordinator, and what arrives there.

All plans train the same lease of a run on the digits, whose deltas travel in fp32, so that no difference is rounded away.
"""

from __future__ import annotations

import shutil
from contextlib import closing
from functools import cached_property
from pathlib import Path

import pytest
import torch
from torch import Tensor

from coordinator.blobs import BlobStore, read_spec
from coordinator.init import init_run
from coordinator.ledger import Ledger
from coordinator.run_folder import RunFolder
from diffusion_at_home.config.run import Codec, RunConfig
from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.data.build import build
from diffusion_at_home.wire.vector import VectorReader
from tests.faults.processes import house
from tests.integration.live_run import num_parameters, serving
from tests.unit.tiny_run import REPOSITORY
from worker.memory.planning import WorkPlan, this_machine
from worker.state_folder import StateFolder
from worker.step.compute import CPU
from worker.step.masters import WeightKind
from worker.step.plan import Offload, StepPlan

STEPS = 4

ONE_LEASE = (
    f"round.images={STEPS * 16}",
    f"lease.probe_steps={STEPS}",
    "lease.timeout_seconds=600",
    "round.max_seconds=600",
    "inner.clip='tensor'",
    "codec.delta='fp32'",
    "evaluation.max_images=1",
    "evaluation.draws=1",
)


class Digits:
    """A run on the digits with one inner optimizer, and what one lease of its first round comes to under each plan."""

    def __init__(self, root: Path, data: Path, optimizer: str) -> None:
        self._root = root
        self._fresh = RunFolder(root / "fresh")
        overrides = (f"data.path='{data}'", f"inner.optimizer='{optimizer}'", *ONE_LEASE)
        init_run(self._fresh, load_toml(REPOSITORY / "configs" / "digits.toml", RunConfig, overrides))
        self._deltas: dict[StepPlan, Tensor] = {}

    def delta(self, plan: StepPlan) -> Tensor:
        """What a worker that trains by `plan` hands in."""
        if plan not in self._deltas:
            self._deltas[plan] = self._train(plan)
        return self._deltas[plan]

    @cached_property
    def plain(self) -> Tensor:
        """What the fp32 plan comes to."""
        return self.delta(StepPlan())

    def _train(self, plan: StepPlan) -> Tensor:
        place = self._root / str(len(self._deltas))
        folder = RunFolder(place / "run")
        shutil.copytree(self._fresh.root, folder.root)
        self._force(plan, StateFolder(place / "worker"))
        with serving(folder) as run, house(place) as home:
            worker = home.worker("worker", run, "--leases", "1", "--set", f"devices={plan.devices}")
            assert worker.wait() == 0, worker.output
            assert worker.status["plan"] == str(plan)
            assert worker.status["images_total"] == STEPS * 16
        return contributed(folder)

    def _force(self, plan: StepPlan, state: StateFolder) -> None:
        """Let the worker that will own `state` find `plan` as the one that was made for this run and machine."""
        with closing(Ledger(self._fresh.ledger, read_only=True)) as ledger:
            spec = read_spec(BlobStore(self._fresh.blobs, self._fresh.staging), ledger.spec_sha256())
        plans = self._root / "plans"
        WorkPlan(spec.config, spec.tokenizer.encode(), this_machine(CPU, plan.devices), plans).adopt(plan)
        shutil.copytree(plans, state.plans)


def contributed(folder: RunFolder) -> Tensor:
    """The only delta that arrived."""
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        (contribution,) = ledger.contributions(1)
    delta = torch.empty(num_parameters(folder))
    with BlobStore(folder.blobs, folder.staging).open(contribution.sha256) as view:
        VectorReader(view, Codec.FP32, len(delta)).copy_to(delta)
    return delta


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "data"
    build("digits", folder)
    return folder


@pytest.fixture(scope="module")
def eight_bits(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Digits:
    return Digits(tmp_path_factory.mktemp("adamw8bit"), data, "adamw8bit")


@pytest.fixture(scope="module")
def exact_state(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Digits:
    return Digits(tmp_path_factory.mktemp("adamw"), data, "adamw")


def apart(left: Tensor, right: Tensor) -> float:
    assert right.any()
    return float((left - right).norm() / right.norm())


@pytest.mark.parametrize(
    "plan",
    [pytest.param(StepPlan(release=True), marks=pytest.mark.slow), StepPlan(checkpointing=True)],
    ids=["release", "recompute"],
)
def test_parts_that_only_save_memory_hand_in_the_plain_delta_bit_for_bit(eight_bits: Digits, plan: StepPlan) -> None:
    assert torch.equal(eight_bits.delta(plan), eight_bits.plain)


@pytest.mark.parametrize(
    "offload", [pytest.param(kind, marks=pytest.mark.slow) for kind in (Offload.STATE, Offload.BLOCKS)]
)
def test_what_lies_on_the_host_hands_in_what_lies_on_the_device_bit_for_bit(
    eight_bits: Digits, offload: Offload
) -> None:
    near = StepPlan(WeightKind.SPLIT, release=True)
    far = StepPlan(WeightKind.SPLIT, release=True, offload=offload)
    assert torch.equal(eight_bits.delta(far), eight_bits.delta(near))


@pytest.mark.slow
def test_stochastic_weights_hand_in_nearly_what_exact_ones_do(eight_bits: Digits) -> None:
    exact = eight_bits.delta(StepPlan(WeightKind.SPLIT, release=True))
    rounded = eight_bits.delta(StepPlan(WeightKind.STOCHASTIC, release=True))
    assert apart(exact, eight_bits.plain) < 0.1  # a bf16 network
    assert 0 < apart(rounded, exact) < 0.2


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(StepPlan(micro_batch_images=5), marks=pytest.mark.slow),
        pytest.param(StepPlan(release=True, devices=2), marks=pytest.mark.slow),
        pytest.param(StepPlan(checkpointing=True, devices=3), marks=pytest.mark.slow),
    ],
    ids=["micro-batches", "2 devices", "3 devices"],
)
def test_divided_batches_hand_in_what_whole_ones_do(exact_state: Digits, plan: StepPlan) -> None:
    assert 0 < apart(exact_state.delta(plan), exact_state.plain) < 1e-4  # sums in another order
