"""The operator's auditor beside a live run: who hands in what was not trained is banned, who trains is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import Tensor

from coordinator.orders import orders
from diffusion_at_home.cli.coordinator import app
from diffusion_at_home.cli.output import run_command
from diffusion_at_home.errors import ShutOut
from diffusion_at_home.wire.layout import Layout
from tests.integration.daemon_here import work_here
from tests.integration.live_run import LiveRun, serving
from tests.unit.tiny_data import tiny_run_folder
from worker.loop import Goal
from worker.step.one_device import OneDevice
from worker.step.plan import StepPlan
from worker.steppers import TrainingSite

ROUNDS = (
    "round.images=16",
    "lease.min_steps=2",
    "lease.probe_steps=2",
    "lease.max_steps=2",
    "evaluation.every_images=100000",
    "checkpoint.every_images=100000",
)


class Lazy(OneDevice):
    """Hands in a part of what it should."""

    def delta(self) -> Tensor:
        return 0.5 * super().delta()


def lazy(site: TrainingSite, layout: Layout, plan: StepPlan) -> OneDevice:
    return Lazy(site.config, site.model(), layout, site.compute, plan)


def audit(run: LiveRun, cache: Path, capsys: pytest.CaptureFixture[str], leases: int) -> dict[str, int]:
    (run.folder.root / "address").write_text(run.address)
    arguments = ["audit", str(run.folder.root), "--device", "cpu", "--leases", str(leases), "--cache", str(cache)]
    assert run_command(lambda: app([*arguments, "--json"], standalone_mode=False), debug=False) == 0
    found: dict[str, int] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_a_lazy_worker_is_distrusted_then_banned_and_an_honest_one_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tiny_run_folder(tmp_path, *ROUNDS)) as run:
        anna = work_here(tmp_path / "anna", run.address, Goal(leases=2)).worker_id
        cheat = work_here(tmp_path / "cheat", run.address, Goal(leases=2), lazy).worker_id
        run.wait_for_version(4)
        assert audit(run, tmp_path / "cache", capsys, leases=4) == {"agrees": 2, "disagrees": 2, "unchecked": 0}
        with orders(run.folder) as operator:
            state = operator.state()
        assert [(action["action"], action["subject"]) for action in state["actions"]] == [
            ("distrust", cheat),
            ("ban", cheat),
        ]
        assert [ban["worker"] for ban in state["banned"]] == [cheat]
        with pytest.raises(ShutOut, match="by the auditor: lease 4 was not what it should have come to"):
            work_here(tmp_path / "cheat", run.address, Goal(), lazy)
        assert anna not in str(state)
