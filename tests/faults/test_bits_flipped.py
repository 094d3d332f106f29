"""Bits flip in the weights that a worker holds: it loses one lease, starts from a snapshot and goes on, in the same process."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from coordinator.records import LeaseState
from coordinator.replay import replay
from diffusion_at_home.wire.layout import Layout
from tests.faults.coverage import leases_of
from tests.integration.daemon_here import work_here
from tests.integration.live_run import serving
from tests.unit.tiny_data import tiny_run_folder
from worker.loop import Goal
from worker.step.plan import StepPlan
from worker.step.stepper import Drawn, Stepper
from worker.steppers import TrainingSite, open_stepper

ONE_LEASE_A_ROUND = ("round.images=16", "lease.min_steps=2", "lease.probe_steps=2", "lease.max_steps=2")
QUIET = ("evaluation.every_images=100000", "checkpoint.every_images=100000")


class FlipsABit:
    """Trains as it should; at the end of its second lease a bit of the replica's own memory flips."""

    def __init__(self, sound: Stepper) -> None:
        self._sound = sound
        self._base = torch.empty(0)
        self._leases = 0

    @property
    def plan(self) -> StepPlan:
        return self._sound.plan

    def start(self, base: Tensor, seed: int, learning_rate: float) -> None:
        self._base, self._leases = base, self._leases + 1
        self._sound.start(base, seed, learning_rate)

    def step(self, drawn: Drawn) -> float:
        return self._sound.step(drawn)

    def delta(self) -> Tensor:
        delta = self._sound.delta().clone()
        if self._leases == 2:
            self._base.view(torch.int32)[7] ^= 1
        return delta

    def close(self) -> None:
        self._sound.close()


def flips_a_bit(site: TrainingSite, layout: Layout, plan: StepPlan) -> Stepper:
    return FlipsABit(open_stepper(site, layout, plan))


def test_worker_whose_weights_went_bad_loses_one_lease_and_heals_without_a_restart(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, *ONE_LEASE_A_ROUND)
    with serving(folder) as run:
        status = work_here(tmp_path / "worker", run.url, Goal(leases=4), flips_a_bit)
        run.wait_for_version(4)
    assert status.refusals == {"base_digest_mismatch": 1}
    assert [(lease.base_version, lease.state) for lease in leases_of(folder, status.worker_id)] == [
        (0, LeaseState.SUBMITTED),
        (1, LeaseState.SUBMITTED),
        (2, LeaseState.RELEASED),
        (2, LeaseState.SUBMITTED),
        (3, LeaseState.SUBMITTED),
    ]
    assert replay(folder).versions == 5
