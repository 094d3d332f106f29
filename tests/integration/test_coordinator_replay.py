"""A replay agrees with an honest run, live or stopped, and names the first version that differs in any other."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.ledger import Ledger
from coordinator.replay import Replayed, replay
from coordinator.run_folder import RunFolder
from diffusion_at_home.cli.coordinator import app
from diffusion_at_home.cli.output import run_command
from diffusion_at_home.errors import IntegrityError
from tests.integration.live_run import encoded, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder

QUIET = ("evaluation.every_images=100000", "checkpoint.every_images=100000")
ROUNDS = 3


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunFolder]:
    """Three versions of two contributions each, and a round that is under way in a live coordinator."""
    equal = ("round.images=32", "lease.min_steps=2", "lease.probe_steps=2", "lease.max_steps=2")
    folder = tiny_run_folder(tmp_path_factory.mktemp("honest"), *QUIET, *equal)
    with serving(folder) as run, volunteers(run, 2) as (anna, bert):
        for number in range(1, ROUNDS + 1):
            leases = [anna.lease(), bert.lease()]
            anna.submit(leases[0], encoded(run, 0.01 * number))
            bert.submit(leases[1], encoded(run, -0.02 * number))
            run.wait_for_version(number)
        anna.submit(anna.lease(), encoded(run, 0.5))
        yield folder


@pytest.fixture
def folder(honest: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy to tamper with."""
    copy = RunFolder(tmp_path / "run")
    copy.root.mkdir()
    with closing(sqlite3.connect(honest.ledger)) as source, closing(sqlite3.connect(copy.ledger)) as target:
        source.backup(target)
    shutil.copytree(honest.blobs, copy.blobs)
    return copy


def contribution_blob(folder: RunFolder, number: int) -> Path:
    ledger = Ledger(folder.ledger, read_only=True)
    sha256 = ledger.contributions(number)[0].sha256
    ledger.close()
    return folder.blobs / sha256


def tamper(folder: RunFolder, statement: str) -> None:
    with closing(sqlite3.connect(folder.ledger)) as raw, raw:
        raw.execute(statement)


def test_live_run_is_replayed_while_it_goes_on(honest: RunFolder) -> None:
    found = replay(honest)
    assert (found.versions, found.contributions, found.images) == (ROUNDS + 1, 2 * ROUNDS, 32 * ROUNDS)


def test_replay_writes_nothing_into_the_run(folder: RunFolder) -> None:
    def files() -> list[str]:
        """All but what SQLite keeps beside a database while it is open."""
        return sorted(path.name for path in folder.root.rglob("*") if not path.name.endswith(("-shm", "-wal")))

    before = files()
    replay(folder)
    assert files() == before


def test_copy_of_the_ledger_and_the_blobs_is_enough(folder: RunFolder, honest: RunFolder) -> None:
    assert replay(folder) == replay(honest)


LIES: dict[str, tuple[Callable[[RunFolder], None], str]] = {
    "a weight": (lambda f: tamper(f, "UPDATE contributions SET weight = 17 WHERE contribution_id = 3"), "version 2"),
    "images": (lambda f: tamper(f, "UPDATE versions SET images = 65 WHERE version = 2"), "version 2 differs: images"),
    "an update": (lambda f: tamper(f, "UPDATE versions SET update_sha256 = 'x' WHERE version = 3"), "version 3"),
    "a digest": (lambda f: tamper(f, "UPDATE versions SET weights_digest = 'x' WHERE version = 1"), "version 1"),
    "the first weights": (
        lambda f: tamper(f, "UPDATE versions SET weights_digest = 'x' WHERE version = 0"),
        "version 0 differs: the weights' digest",
    ),
    "a contribution less": (lambda f: tamper(f, "DELETE FROM contributions WHERE contribution_id = 6"), "version 3"),
    "a damaged blob": (lambda f: damage(contribution_blob(f, 2)), "version 2 differs: .* restore it from a backup"),
    "a missing blob": (lambda f: contribution_blob(f, 2).unlink(), "is missing from .*: restore it from a backup"),
}


def damage(blob: Path) -> None:
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)


@pytest.mark.parametrize("lie", LIES)
def test_first_version_that_differs_is_named(folder: RunFolder, lie: str) -> None:
    tell, sentence = LIES[lie]
    tell(folder)
    with pytest.raises(IntegrityError, match=sentence):
        replay(folder)


def test_command_prints_what_was_found(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: app(["replay", str(folder.root), "--json"], standalone_mode=False), debug=False) == 0
    assert Replayed(**json.loads(capsys.readouterr().out.splitlines()[-1])) == replay(folder)


def test_command_fails_with_a_code_of_its_own(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    tamper(folder, "UPDATE contributions SET weight = 17 WHERE contribution_id = 3")
    code = run_command(lambda: app(["replay", str(folder.root)], standalone_mode=False), debug=False)
    assert code == IntegrityError.exit_code == 11
    assert "dah: version 2 differs" in capsys.readouterr().err
