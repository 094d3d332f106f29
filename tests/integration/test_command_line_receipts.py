"""Receipts are listed and verified by command, by their owner and by anybody else."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from diffusion_at_home.errors import ConfigError, SignatureError
from diffusion_at_home.identity import WorkerId
from diffusion_at_home.receipt import Receipt, Received
from diffusion_at_home.signing_key import public_bytes
from tests.integration.command_line import dah
from worker.receipts import Receipts
from worker.state_folder import StateFolder

KEY = Ed25519PrivateKey.generate()
PUBLIC = public_bytes(KEY).hex()
ME = WorkerId("0" * 16)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with two receipts for 64 images each."""
    folder = tmp_path / "state"
    receipts = Receipts(StateFolder(folder).receipts("tiny-0"), run_id="tiny-0", worker_id=ME, public_key=PUBLIC)
    for number in (1, 2):
        received = Received(
            run_id="tiny-0", contribution_id=number, worker_id=ME, lease_id=number, sha256="a" * 64, images=64, round=1
        )
        signature = KEY.sign(received.message()).hex()
        receipts.keep(Receipt(received=received, public_key=PUBLIC, signature=signature))
    return folder


def test_receipts_are_listed_with_what_holds(state: Path) -> None:
    path = state / "receipts" / "tiny-0.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"contribution_id":2,', b'"contribution_id":3,'))
    found = dah("worker", "receipts", "--state-dir", state, "--json").result
    assert [(line["contribution_id"], line["images"], line["holds"]) for line in found["receipts"]] == [
        (1, 64, True),
        (3, 64, False),
    ]
    assert "not that it counted" in found["says"]
    said = dah("worker", "receipts", "--state-dir", state).out
    assert "line 2 is forged" in said.replace("\n", " ")


def test_anybody_verifies_a_file_of_receipts(state: Path) -> None:
    path = state / "receipts" / "tiny-0.jsonl"
    found = dah("worker", "receipts", "verify", path, "--key", PUBLIC, "--json").result
    assert (found["receipts"], found["images"], found["workers"], found["key_given"]) == (2, 128, [ME], True)
    said = dah("worker", "receipts", "verify", path, "--key", "0" * 64).refuses(SignatureError.exit_code)
    assert said == f"{path}: line 1 is by the foreign key {PUBLIC}"
    assert "is no public key" in dah("worker", "receipts", "verify", path, "--key", "x").refuses(ConfigError.exit_code)
    assert "cannot be read" in dah("worker", "receipts", "verify", state / "no").refuses(ConfigError.exit_code)


def test_worker_without_receipts_says_so(tmp_path: Path) -> None:
    assert dah("worker", "receipts", "--state-dir", tmp_path).out.startswith("no receipts yet")
