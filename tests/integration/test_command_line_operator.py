"""The operator's commands as a person runs them, at a run that is not served."""

from __future__ import annotations

from pathlib import Path

from diffusion_at_home.errors import IntegrityError
from tests.integration.command_line import dah
from tests.unit.tiny_data import tiny_run_folder


def test_a_run_is_drained_looked_at_and_told_of_while_it_is_not_served(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, "server.http_port=0", "server.grpc_port=0")
    assert dah("coordinator", "drain", folder.root, "--note", "new disk", "--json").result["action"] == "drain"
    status = dah("coordinator", "status", folder.root, "--json").result
    assert status["draining"]["note"] == "new disk"
    assert status["storage"]["used_bytes"] == status["disk_bytes"] > 0
    secret = tmp_path / "url"
    secret.write_text("https://hooks.example.org/secret")
    told = dah("coordinator", "alerts", folder.root, "--url-file", secret)
    assert (told.code, "hooks.example.org" in told.out, "secret" in told.out) == (0, True, False)
    fit = dah("coordinator", "doctor", folder.root, "--json").result
    assert fit["fit"] is True
    assert {"ledger", "disk", "quota", "clock", "secrets"} <= {check["name"] for check in fit["checks"]}
    folder.ledger.write_bytes(b"no ledger" * 1000)
    broken = dah("coordinator", "doctor", folder.root)
    assert (broken.code, "is not fit to be served yet" in broken.out) == (IntegrityError.exit_code, True)
