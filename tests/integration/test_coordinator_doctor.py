"""The coordinator's doctor at a run that is served, at one that is not, and at one that is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.doctor.report import diagnose
from coordinator.run_folder import RunFolder
from diffusion_at_home.doctor import Diagnosis, State
from diffusion_at_home.errors import ConfigError, IntegrityError, Unreachable
from tests.integration.live_run import serving
from tests.unit.tiny_data import tiny_run_folder

QUIET = ("evaluation.every_images=100000", "checkpoint.every_images=100000", "server.http_port=0", "server.grpc_port=0")


def states(found: Diagnosis) -> dict[str, State]:
    return {check.name: check.state for check in found.checks}


def test_a_run_is_looked_at_by_its_own_address_while_it_is_served(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, "server.tls='own'")
    before = diagnose(folder, None)
    assert (before.fit, before.exit_code) == (True, 0), before
    assert states(before)["ports"] is State.FINE
    with serving(folder) as run:
        folder.address.write_text(run.address)
        found = states(diagnose(folder, None))
        assert {found[name] for name in ("http", "grpc", "problems", "certificate")} == {State.FINE}
        (folder.root / "rotations.json").write_text("{")
        run.get("/checkpoints.json")
        told = [check for check in diagnose(folder, None).checks if check.name == "problems"]
        assert [(one.state, "rotations.json" in one.found) for one in told] == [(State.WARNING, True)]
        folder.address.write_text(run.address[:-4] + "0000")
        another = diagnose(folder, None)
        assert (another.fit, another.exit_code) == (False, IntegrityError.exit_code)
        folder.address.write_text("https://127.0.0.1:1/")
        nobody = diagnose(folder, None)
        assert (states(nobody)["http"], nobody.exit_code) == (State.PROBLEM, Unreachable.exit_code)


def test_what_cannot_be_served_has_a_line_that_says_so(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET)
    folder.receipt_key.unlink()
    found = diagnose(folder, tmp_path / "no-backup")
    assert states(found) | {"receipt_key": State.PROBLEM, "backup": State.PROBLEM} == states(found)
    assert found.exit_code == ConfigError.exit_code
    assert all(check.advice for check in found.checks if check.state is State.PROBLEM)
    for blob in folder.blobs.iterdir():
        blob.write_bytes(b"")
    broken = diagnose(folder, None)
    assert (broken.fit, broken.exit_code) == (False, IntegrityError.exit_code)
    folder.ledger.write_bytes(b"no ledger" * 1000)
    assert diagnose(folder, None).exit_code == IntegrityError.exit_code
    with pytest.raises(ConfigError, match="is not a run"):
        diagnose(RunFolder(tmp_path / "nowhere"), None)
