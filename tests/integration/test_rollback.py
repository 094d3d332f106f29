"""Going back: by order of the operator or of the gate, in the middle of a round, across restarts, and to the same bits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from threading import Event

import grpc
import pytest

from coordinator.backup import back_up
from coordinator.blobs import file_sha256
from coordinator.closing import CloseReason
from coordinator.ledger import Ledger
from coordinator.orders import orders
from coordinator.parts import spec_of
from coordinator.records import Action, ActionKind, LeaseState, Version
from coordinator.replay import replay
from coordinator.restore import restore
from coordinator.run_folder import RunFolder
from coordinator.scrub_targets import Target, What, joiners_first, the_rest
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.rpc import coordinator_pb2 as pb
from tests.integration.live_run import LiveRun, Volunteer, encoded, refusal, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder

ROUND = 8
PATIENCE_SECONDS = 150.0
"""For evaluations and exports, which give way to all that runs beside them."""

ROUNDS = (f"round.images={ROUND}", "lease.min_steps=1", "lease.probe_steps=1", "lease.max_steps=1")
QUIET = (*ROUNDS, "evaluation.every_images=100000", "checkpoint.every_images=100000")
UNGATED = (*ROUNDS, f"evaluation.every_images={ROUND}", f"checkpoint.every_images={ROUND}", "outer.optimizer='sgd'")
GATED = (*UNGATED, "gate.enabled=true")


def history(folder: RunFolder) -> list[Version]:
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        return ledger.versions()


def play(run: LiveRun, anna: Volunteer, deltas: Sequence[float]) -> None:
    """A round for each."""
    for delta in deltas:
        lease = anna.lease()
        anna.submit(lease, encoded(run, delta))
        run.wait_for_version(lease.round)


def go_back(folder: RunFolder, version: int) -> None:
    with orders(folder) as operator:
        operator.rollback(version, "it draws noise")


def scrubbed(folder: RunFolder) -> list[Target]:
    """All blobs that the scrubber would look at."""
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        spec, versions, deltas = spec_of(folder, ledger), ledger.versions(), ledger.held_deltas()
    snapshots = [version.version for version in versions if version.snapshot_sha256]
    found = joiners_first(spec=spec, history=versions, snapshots=snapshots, folder=folder)
    found += the_rest(spec=spec, history=versions, snapshots=snapshots[-1:], deltas=deltas, folder=folder)
    return [target for target in found if target.what is not What.HELD_OUT]


def facts(version: Version) -> tuple[str, int]:
    return version.weights_digest, version.images


def test_the_run_goes_back_in_the_middle_of_a_round(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, "round.images=16", "outer.optimizer='nesterov'")
    with serving(folder) as run, volunteers(run, 2) as (anna, bert):
        for number in (1, 2, 3):
            for one in (anna, bert):
                one.submit(one.lease(), encoded(run, 0.01 * number))
            run.wait_for_version(number)
        held = anna.lease()
        bert.submit(bert.lease(), encoded(run, 0.05))
        go_back(folder, 1)
        assert run.wait_for_version(4)["images"] == 16
        versions = history(folder)
        assert (versions[4].back_to, versions[4].update_sha256) == (1, "")
        assert facts(versions[4]) == facts(versions[1])
        with pytest.raises(grpc.RpcError) as late:
            anna.submit(held, encoded(run, 0.05))
        assert refusal(late.value)[1] == "REFUSAL_LEASE_EXPIRED"
        for held_version in ({}, {"has_weights": True, "held_version": 3}, {"has_weights": True, "held_version": 1}):
            grant = anna.lease(**held_version)
            assert (grant.base_version, grant.base_digest) == (4, versions[1].weights_digest)
            assert [(blob.kind, blob.version) for blob in grant.catch_up] == [(pb.Blob.KIND_SNAPSHOT, 4)]
        for one, lease in ((anna, grant), (bert, bert.lease())):
            one.submit(lease, encoded(run, 0.02))
        assert run.wait_for_version(5)["images"] == 32
    with serving(folder) as run:
        assert run.status()["version"] == 5
    assert replay(folder).weights_digest == history(folder)[5].weights_digest


def test_the_moments_go_back_too(tmp_path: Path) -> None:
    """What came between leaves no trace: the same round from the same version makes the same bits."""
    folder = tiny_run_folder(tmp_path, *QUIET, "outer.optimizer='nesterov'", "outer.momentum=0.9")
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        play(run, anna, [0.01, 0.02, 0.5])
        go_back(folder, 1)
        run.wait_for_version(4)
        play(run, anna, [0.02])
    versions = history(folder)
    assert facts(versions[5]) == facts(versions[2])
    assert versions[3].weights_digest not in {versions[5].weights_digest, versions[4].weights_digest}


def test_a_rollback_can_be_gone_back_over_but_what_it_left_cannot_be_gone_to(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        play(run, anna, [0.01, 0.02, 0.03])
        go_back(folder, 2)
        run.wait_for_version(4)
        play(run, anna, [0.04])
        with pytest.raises(ConfigError, match="left behind by a rollback"):
            go_back(folder, 3)
        with pytest.raises(ConfigError, match="is not before the newest one, 5"):
            go_back(folder, 5)
        go_back(folder, 4)
        run.wait_for_version(6)
        go_back(folder, 1)
        run.wait_for_version(7)
    versions = history(folder)
    assert [version.back_to for version in versions[4:]] == [2, None, 4, 1]
    assert facts(versions[6]) == facts(versions[4]) == facts(versions[2])
    assert facts(versions[7]) == facts(versions[1])
    assert replay(folder).versions == 8


def test_all_of_the_run_is_sound_after_going_back_and_its_backup_too(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        play(run, anna, [0.01, 0.02, 0.03])
        go_back(folder, 1)
        run.wait_for_version(4)
        play(run, anna, [0.04])
        back_up(folder, RunFolder(tmp_path / "backup"))
    for target in scrubbed(folder):
        assert target.path.name == target.expected == file_sha256(target.path), target.about
    restore(RunFolder(tmp_path / "backup"), RunFolder(tmp_path / "again"))
    with serving(RunFolder(tmp_path / "again")) as run:
        assert run.status()["version"] == 5
    assert replay(RunFolder(tmp_path / "again")).versions == 6


def test_an_order_given_while_nobody_serves_is_carried_out_at_the_next_start(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        play(run, anna, [0.01, 0.02])
    go_back(folder, 1)
    for _ in range(2):  # and once only
        with serving(folder) as run:
            assert run.wait_for_version(3)["version"] == 3
    assert [version.back_to for version in history(folder)] == [None, None, None, 1]


def test_a_coordinator_that_died_after_closing_the_round_goes_back_at_the_next_start(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        play(run, anna, [0.01, 0.02])
        anna.lease()
    with closing(Ledger(folder.ledger)) as ledger:
        ledger.add_action(Action(0, ActionKind.ROLLBACK, "1", "", 1))
        out = [lease.lease_id for lease in ledger.active_leases()]
        ledger.close_round(3, CloseReason.ROLLBACK.value, out, ledger.pool(), state=LeaseState.EXPIRED)
    with serving(folder) as run:
        assert run.wait_for_version(3)["images"] == ROUND
    assert replay(folder).versions == 4


def evaluated(run: LiveRun, version: int) -> None:
    deadline, pause = time.monotonic() + PATIENCE_SECONDS, Event()
    while not any(evaluation["version"] == version for evaluation in run.status()["evaluations"]):
        assert time.monotonic() < deadline
        pause.wait(0.05)


def ruin(run: LiveRun, anna: Volunteer) -> None:
    """Two good rounds, then one that breaks the model; and the checkpoint of that."""
    for number, delta in enumerate((1e-6, 1e-6, 1.0), start=1):
        play(run, anna, [delta])
        evaluated(run, number)


def test_the_gate_goes_back_when_the_loss_breaks_and_withdraws_the_checkpoint(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *GATED)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        ruin(run, anna)
        status = run.wait_for_version(4)
        assert (status["images"], history(folder)[4].back_to) == (2 * ROUND, 2)
        play(run, anna, [1e-6])
        evaluated(run, 5)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(names := [c["name"] for c in run.get("/checkpoints.json").json()["checkpoints"]]) < 3:
            assert time.monotonic() < deadline
            Event().wait(0.05)
        assert names == ["tiny-0000000008", "tiny-0000000016", "tiny-0000000024-v5"]
        assert run.get("/checkpoints/tiny-0000000024/manifest.json").status_code == 404
        with orders(folder) as operator:
            (action,) = operator.state()["actions"]
        assert action["action"] == "rollback"
        assert action["note"].startswith("by the gate: held-out loss of version 3 is ")
    assert replay(folder).versions == 6


def test_without_the_gate_a_broken_model_stays(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *UNGATED)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        ruin(run, anna)
        play(run, anna, [1e-6])
        evaluated(run, 4)
        losses = {e["version"]: e["mean"] for e in run.status()["evaluations"] if e["weights"] == "raw"}
        assert losses[4] > 2 * losses[2]
    assert history(folder)[4].back_to is None


def test_what_breaks_again_and_again_is_a_problem_for_the_operator(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *GATED, "checkpoint.every_images=100000")
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        play(run, anna, [1e-6])
        evaluated(run, 1)
        for number in (2, 4, 6):
            play(run, anna, [1.0])
            evaluated(run, number)
            run.wait_for_version(number + 1)
        problems = [problem["sentence"] for problem in run.status()["live"]["problems"]]
        assert any("has gone there 3 times in a row" in sentence for sentence in problems), problems
