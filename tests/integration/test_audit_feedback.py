"""The operator's auditor of a run whose deltas carry error feedback: who trains is believed, who trains half of it is banned."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from coordinator.orders import orders
from diffusion_at_home.audit.records import LeasePage, LeaseRecord, lease_path
from diffusion_at_home.cli.coordinator import app
from diffusion_at_home.cli.output import run_command
from diffusion_at_home.wire.layout import Layout
from tests.integration.daemon_here import work_here
from tests.integration.live_run import LiveRun, serving
from tests.integration.test_audit import an_auditor
from tests.unit.tiny_data import tiny_run_folder
from worker.auditor.audit import Auditor
from worker.auditor.finding import Outcome
from worker.loop import Goal
from worker.step.one_device import OneDevice
from worker.step.plan import StepPlan
from worker.step.stepper import Drawn
from worker.steppers import TrainingSite

STEPS = 4
RUN = (
    "codec.delta='sparse'",
    "codec.feedback=0.95",
    "audit.shown_leaves=2",
    f"round.images={8 * STEPS}",
    f"lease.min_steps={STEPS}",
    f"lease.probe_steps={STEPS}",
    f"lease.max_steps={STEPS}",
    "evaluation.every_images=100000",
    "checkpoint.every_images=100000",
)
NEVER = threading.Event()


class Half(OneDevice):
    """Takes every other step."""

    taken = 0

    def step(self, drawn: Drawn) -> float:
        self.taken += 1
        return super().step(drawn) if self.taken % 2 else 0.5


def half(site: TrainingSite, layout: Layout, plan: StepPlan) -> OneDevice:
    return Half(site.config, site.model(), layout, site.compute, plan)


def audited(run: LiveRun, cache: Path, capsys: pytest.CaptureFixture[str], leases: int) -> dict[str, int]:
    (run.folder.root / "address").write_text(run.address)
    arguments = ["audit", str(run.folder.root), "--device", "cpu", "--leases", str(leases), "--cache", str(cache)]
    assert run_command(lambda: app([*arguments, "--json"], standalone_mode=False), debug=False) == 0
    found: dict[str, int] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_who_trains_half_is_banned_where_leaves_are_shown_and_who_trains_is_believed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tiny_run_folder(tmp_path, *RUN)) as run:
        work_here(tmp_path / "anna", run.address, Goal(leases=2))
        work_here(tmp_path / "anna", run.address, Goal(leases=1))  # with the residual that the last process has saved
        cheat = work_here(tmp_path / "cheat", run.address, Goal(leases=2), half).worker_id
        run.wait_for_version(5)
        records = [record_of(run, lease) for lease in range(1, 6)]
        assert [record.residual_before for record in records] == [
            "",
            records[0].residual_after,
            records[1].residual_after,
            "",
            records[3].residual_after,
        ]
        assert audited(run, tmp_path / "cache", capsys, leases=5) == {"agrees": 3, "disagrees": 2, "unchecked": 0}
        with orders(run.folder) as operator:
            assert [ban["worker"] for ban in operator.state()["banned"]] == [cheat]
        with an_auditor(run, tmp_path) as auditor:
            tampered(auditor, records[2])


def tampered(auditor: Auditor, honest: LeaseRecord) -> None:
    """What somebody may have changed in a record is named."""
    for change, outcome in (
        ({}, Outcome.AGREES),
        ({"residual_before": ""}, Outcome.DISAGREES),
        ({"residual_after": "00" * 32}, Outcome.DISAGREES),
        ({"shown_sha256": ""}, Outcome.UNCHECKED),
        ({"shown_bytes": 2**40}, Outcome.UNCHECKED),
        ({"shown_sha256": honest.sha256, "shown_bytes": honest.size_bytes}, Outcome.DISAGREES),
    ):
        found = auditor.check(honest.model_copy(update=change))
        assert found.outcome is outcome, (change, found.why)


def record_of(run: LiveRun, lease: int) -> LeaseRecord:
    return LeasePage.model_validate_json(run.get(lease_path(lease)).text).lease


def test_where_nothing_is_shown_half_of_the_work_is_paid_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tiny_run_folder(tmp_path, *RUN, "audit.shown_leaves=0")) as run:
        cheat = work_here(tmp_path / "cheat", run.address, Goal(leases=2), half)
        run.wait_for_version(2)
        assert audited(run, tmp_path / "cache", capsys, leases=2) == {"agrees": 0, "disagrees": 0, "unchecked": 2}
        assert cheat.images_total == 2 * 8 * STEPS
