"""Anybody recomputes what workers handed in from what a run publishes: who trains is believed, and who does not is named."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor

from diffusion_at_home.audit.records import LeaseRecord, RoundPage, StepKind, VersionRecord, lease_path, round_path
from diffusion_at_home.cli.checkpoint import app
from diffusion_at_home.cli.output import run_command
from diffusion_at_home.config.run import Codec
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.identity import Handed, Identity
from diffusion_at_home.kept_weights import KeptWeights
from diffusion_at_home.wire.layout import Layout
from tests.integration.daemon_here import work_here
from tests.integration.live_run import LiveRun, encoded, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder
from worker.auditor.audit import Auditor, Choice, audit_run
from worker.auditor.finding import Finding, Outcome
from worker.auditor.recompute import Recomputer
from worker.loop import Goal
from worker.run_address import RunAddress
from worker.settings import Device, WorkerSettings
from worker.step.one_device import OneDevice
from worker.step.plan import StepPlan
from worker.steppers import TrainingSite

ROUNDS = (
    "round.images=32",
    "lease.min_steps=2",
    "lease.probe_steps=2",
    "lease.max_steps=2",
    "evaluation.every_images=100000",
    "checkpoint.every_images=100000",
)
NEVER = threading.Event()

Change = Callable[[Tensor], Tensor]


def noise_as_long(delta: Tensor) -> Tensor:
    noise = torch.randn(delta.shape, generator=torch.Generator().manual_seed(int(1e9 * float(delta[0]) % 1000)))
    return noise * float(delta.norm() / noise.norm())


WORKERS: dict[str, tuple[Change, int]] = {
    "longer": (lambda delta: 1.5 * delta, 1),
    "honest": (lambda delta: delta, 2),
    "noise": (noise_as_long, 1),
}
"""What each hands in of what it trained, and how often; one works after another, so the honest one is in both rounds."""


class Changed(OneDevice):
    """Trains, and hands in something else."""

    change: Change

    def delta(self) -> Tensor:
        return self.change(super().delta())


@dataclass(frozen=True)
class Closed:
    """A run of two closed rounds of two contributions each."""

    run: LiveRun
    names: dict[str, str]
    """Of workers, by id."""

    def page(self, number: int, after: int = 0) -> RoundPage:
        return RoundPage.model_validate_json(self.run.get(round_path(number, after)).text)

    def records(self) -> list[LeaseRecord]:
        return [record for number in (1, 2) for record in self.page(number).leases]


def work(root: Path, run: LiveRun, name: str) -> str:
    change, leases = WORKERS[name]

    def opened(site: TrainingSite, layout: Layout, plan: StepPlan) -> OneDevice:
        stepper = Changed(site.config, site.model(), layout, site.compute, plan)
        stepper.change = change
        return stepper

    return work_here(root / name, run.address, Goal(leases), opened).worker_id


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    root = tmp_path_factory.mktemp("audited")
    with serving(tiny_run_folder(root, *ROUNDS)) as run:
        names = {work(root, run, name): name for name in WORKERS}
        run.wait_for_version(2)
        yield Closed(run, names)


def settings_in(folder: Path) -> WorkerSettings:
    return WorkerSettings(device=Device.CPU, threads=1, state_dir=folder / "state", cache_dir=folder / "cache")


@contextmanager
def an_auditor(run: LiveRun, folder: Path) -> Iterator[Auditor]:
    with ExitStack() as opened:
        yield Auditor(RunAddress.parse(run.address), settings_in(folder), opened)


@pytest.fixture(scope="module")
def auditor(closed: Closed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Auditor]:
    with an_auditor(closed.run, tmp_path_factory.mktemp("auditor")) as made:
        yield made


@pytest.fixture
def honest(closed: Closed) -> LeaseRecord:
    """A lease of the second round, so that its base has to be found."""
    found = [r for r in closed.records() if closed.names[r.worker_id] == "honest"]
    return max(found, key=lambda record: record.base_version)


def test_who_trained_is_believed_and_who_did_not_is_named(closed: Closed, tmp_path: Path) -> None:
    told: list[Finding] = []
    done = audit_run(
        closed.run.address, Choice(sample=4), settings_in(tmp_path), told.append, require_sound=lambda _: None
    )
    assert told == list(done.findings)
    assert len({finding.record.lease_id for finding in told}) == 4
    outcomes = Counter((closed.names[finding.record.worker_id], finding.outcome) for finding in told)
    assert outcomes == {
        ("honest", Outcome.AGREES): 2,
        ("longer", Outcome.DISAGREES): 1,
        ("noise", Outcome.DISAGREES): 1,
    }
    assert all(finding.agreement is not None for finding in told)


def test_the_command_says_so_in_words_figures_and_its_exit_code(
    closed: Closed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def audit(*which: str) -> tuple[int, dict[str, Any], str]:
        places = ["--set", f"cache_dir='{tmp_path}'", "--set", f"state_dir='{tmp_path}'", "--set", "threads=1"]
        arguments = ["audit", closed.run.address, *which, "--device", "cpu", *places, "--json"]
        code = run_command(lambda: app(arguments, standalone_mode=False), debug=False)
        out, err = capsys.readouterr()
        return code, json.loads(out.splitlines()[-1]), err

    code, result, err = audit("--round", "1")
    assert (code, result["agrees"], result["disagrees"], result["unchecked"]) == (13, 1, 1, 0)
    assert "not what their leases give" in err
    for finding in result["findings"]:
        liar = closed.names[finding["worker"]] != "honest"
        assert finding["outcome"] == ("disagrees" if liar else "agrees")
        assert f"lease {finding['lease']} (round 1, worker {finding['worker']}, 16 images) {finding['outcome']}" in err
    (fine, *_) = (f["lease"] for f in result["findings"] if f["outcome"] == "agrees")
    code, result, _ = audit("--lease", str(fine))
    assert (code, result["agrees"], len(result["findings"])) == (0, 1, 1)


# -- a record that somebody has tampered with ---------------------------------------------------------------------


def check(auditor: Auditor, honest: LeaseRecord, **changes: Any) -> Finding:
    return auditor.check(honest.model_copy(update=changes))


def signed(record: LeaseRecord, run_id: str, **changes: Any) -> LeaseRecord:
    """As somebody else would sign it, which changes nothing else than whose it is."""
    key = Identity(Ed25519PrivateKey.generate())
    mine = record.model_copy(update={"public_key": key.public_key.hex(), "worker_id": key.worker_id, **changes})
    assert mine.weights is not None
    handed = Handed(run_id, mine.lease_id, mine.terms.sha256, mine.weights, mine.sha256, mine.images)
    return mine.model_copy(update={"signature": key.sign_contribution(handed).hex()})


def test_the_same_machine_gets_the_same_bits(auditor: Auditor, honest: LeaseRecord) -> None:
    assert check(auditor, honest).why == "the same numbers, bit for bit"


def test_a_forged_signature_key_or_number_of_images_is_a_lie(
    auditor: Auditor, closed: Closed, honest: LeaseRecord
) -> None:
    other = next(r for r in closed.records() if r.worker_id != honest.worker_id)
    for changes in (
        {"signature": other.signature},
        {"signature": "00" * 64},
        {"public_key": other.public_key},
        {"public_key": other.public_key, "worker_id": other.worker_id},
        {"sha256": other.sha256, "size_bytes": other.size_bytes},
        {"images": honest.images - 8},
        {"images": 0},
        {"images": honest.images + 8},
        {"weights": KeptWeights.ROUNDED},
        {"seed": honest.seed + 1},
        {"learning_rate": 2 * honest.learning_rate},
        {"base_version": 0},
        {"ranges": tuple(part.model_copy(update={"epoch": part.epoch + 5}) for part in honest.ranges)},
    ):
        found = check(auditor, honest, **changes)
        assert found.outcome is Outcome.DISAGREES, changes
        assert found.agreement is None


@pytest.mark.parametrize("change", ["seed", "rate", "ranges"])
def test_another_lease_than_was_trained_does_not_agree(auditor: Auditor, honest: LeaseRecord, change: str) -> None:
    moved = tuple(part.model_copy(update={"epoch": part.epoch + 5}) for part in honest.ranges)
    changes: dict[str, Any] = {
        "seed": {"seed": honest.seed + 1},
        "rate": {"learning_rate": 2 * honest.learning_rate},
        "ranges": {"ranges": moved},
    }
    found = auditor.check(signed(honest, auditor.run_id, **changes[change]))
    assert (found.outcome, found.agreement is None) == (Outcome.DISAGREES, False)


def test_what_the_run_does_not_have_is_nobody_s_fault(auditor: Auditor, honest: LeaseRecord) -> None:
    beyond = (honest.ranges[0].model_copy(update={"shard": 99}),)
    unsigned: tuple[dict[str, Any], ...] = (
        {"codec": Codec.FP32},
        {"size_bytes": honest.size_bytes + 1},
        {"signature": ""},
        {"weights": None},
    )
    for changes in unsigned:
        found = check(auditor, honest, **changes)
        assert found.outcome is Outcome.UNCHECKED, (changes, found)
        assert found.agreement is None
    out_of_reach: tuple[dict[str, Any], ...] = (
        {"base_digest": "0" * 64},
        {"base_version": 99},
        {"ranges": beyond, "images": beyond[0].count},
    )
    for changes in out_of_reach:
        found = auditor.check(signed(honest, auditor.run_id, **changes))
        assert found.outcome is Outcome.UNCHECKED, (changes, found)
        assert found.agreement is None


def test_a_base_that_does_not_have_its_digest_is_not_trained_from(
    auditor: Auditor, closed: Closed, honest: LeaseRecord
) -> None:
    base = VersionRecord.model_validate_json(closed.run.get("/versions/1.json").text)
    wrong = "0" * 64
    lied = base.model_copy(update={"weights_digest": wrong})
    found = recomputer(auditor).check(signed(honest, auditor.run_id, base_digest=wrong), lied)
    assert found.outcome is Outcome.UNCHECKED
    assert "do not match their digest" in found.why


def test_a_base_is_reached_from_the_seed_as_well(auditor: Auditor, closed: Closed, honest: LeaseRecord) -> None:
    base = VersionRecord.model_validate_json(closed.run.get("/versions/1.json").text)
    updates = tuple(step for step in base.steps if step.kind is StepKind.UPDATE)
    from_seed = base.model_copy(update={"from_seed": True, "steps": updates})
    lied = base.model_copy(update={"weights_digest": "0" * 64})
    recomputer(auditor).check(signed(honest, auditor.run_id, base_digest="0" * 64), lied)
    assert recomputer(auditor).check(honest, from_seed).outcome is Outcome.AGREES


def test_with_error_feedback_nothing_is_said(auditor: Auditor, closed: Closed, honest: LeaseRecord) -> None:
    parts = recomputer(auditor).parts
    config = parts.spec.config
    codec = config.codec.model_copy(update={"feedback": 0.95})
    spec = parts.spec.model_copy(update={"config": config.model_copy(update={"codec": codec})})
    base = VersionRecord.model_validate_json(closed.run.get("/versions/1.json").text)
    found = Recomputer(replace(parts, spec=spec), NEVER).check(honest, base)
    assert found.outcome is Outcome.UNCHECKED
    assert "error feedback" in found.why


def recomputer(auditor: Auditor) -> Recomputer:
    return auditor.recomputer


# -- what is published --------------------------------------------------------------------------------------------


def test_pages_tell_of_closed_rounds_alone_and_of_nobody_s_machine(closed: Closed) -> None:
    assert [len(closed.page(number).leases) for number in (1, 2)] == [2, 2]
    assert closed.page(1).next is None
    first = closed.page(1).leases[0]
    assert [record.lease_id for record in closed.page(1, after=first.lease_id).leases] == [
        record.lease_id for record in closed.page(1).leases[1:]
    ]
    for path in ("/rounds/0.json", "/rounds/3.json", "/rounds/x.json", f"/rounds/{'9' * 5000}.json", "/leases/99.json"):
        assert closed.run.get(path).status_code == 404, path
    assert closed.run.get("/rounds/1.json?after=-1").status_code == 404
    assert closed.run.get("/versions/3.json").status_code == 404
    text = closed.run.get("/rounds/1.json").text
    assert "cpu" not in text
    assert "token" not in text


def test_what_is_handed_in_is_published_once_its_round_has_closed(auditor: Auditor, closed: Closed) -> None:
    with volunteers(closed.run, 1) as (anna,):
        lease = anna.lease()
        anna.submit(lease, encoded(closed.run))
        assert closed.run.get(lease_path(lease.lease_id)).status_code == 404
        with pytest.raises(ConfigError, match="no contribution"):
            auditor.choose(Choice(lease=lease.lease_id))
        with pytest.raises(ConfigError, match="no closed round 3"):
            auditor.choose(Choice(round=3))
