"""A coordinator serves no signature that does not hold, names what is wrong, and takes a better file at once."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from coordinator.problems import Problems
from coordinator.records import Checkpoint, Weights
from coordinator.run_folder import RunFolder
from coordinator.signatures import Signatures
from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME, SIGNATURE_NAME
from diffusion_at_home.checkpoint.release_key import ReleaseKey


class Run:
    """A folder with two checkpoints of which only the manifests are there, and the operator's keys elsewhere."""

    def __init__(self, root: Path) -> None:
        self.folder = RunFolder(root / "run")
        self.keys = root / "keys"
        self.key = ReleaseKey.create(self.keys / "first")
        self.old, self.new = (self._checkpoint(name) for name in ("tiny-1", "tiny-2"))
        self.problems = Problems()

    def _checkpoint(self, name: str) -> Checkpoint:
        folder = self.folder.checkpoints / name
        folder.mkdir(parents=True)
        data = f"the manifest of {name}".encode()
        (folder / MANIFEST_NAME).write_bytes(data)
        return Checkpoint(name, 1, 1, Weights.EMA, 0.5, 1, hashlib.sha256(data).hexdigest(), 0)

    def signatures(self, release_key: str | None = None) -> Signatures:
        named = self.key.public_key if release_key is None else release_key
        return Signatures(folder=self.folder, release_key=named, problems=self.problems)

    def path(self, checkpoint: Checkpoint) -> Path:
        return self.folder.checkpoints / checkpoint.name / SIGNATURE_NAME

    def sign(self, checkpoint: Checkpoint, key: ReleaseKey | None = None) -> bytes:
        manifest = (self.folder.checkpoints / checkpoint.name / MANIFEST_NAME).read_bytes()
        data = (key or self.key).sign(manifest).to_bytes()
        self.path(checkpoint).write_bytes(data)
        return data

    def rotate(self) -> ReleaseKey:
        return self.key.rotate(self.keys / "first", self.keys / "second")

    def publish_rotation(self) -> None:
        shutil.copy(self.keys / "second.rotations.json", self.folder.rotations)

    def wrong(self) -> dict[str, str]:
        return {problem.name: problem.sentence for problem in self.problems.present()}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_signature_that_holds_is_served_as_soon_as_it_is_there(run: Run) -> None:
    signatures = run.signatures()
    assert signatures.of(run.old) is None
    data = run.sign(run.old)
    assert (signatures.of(run.old), signatures.of(run.new)) == (data, None)
    run.path(run.old).unlink()
    assert signatures.of(run.old) is None
    assert run.wrong() == {}


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"garbage", "is not a checkpoint's signature"), (b"x" * 100_000, "is larger than any signature")],
)
def test_garbage_is_not_served_and_named_until_it_is_gone(run: Run, data: bytes, said: str) -> None:
    signatures = run.signatures()
    run.path(run.old).write_bytes(data)
    assert signatures.of(run.old) is None
    assert said in run.wrong()["signature_refused:tiny-1"]
    run.sign(run.old)
    assert signatures.of(run.old)
    assert run.wrong() == {}


def test_another_checkpoints_signature_is_not_served(run: Run) -> None:
    data = run.sign(run.new)
    run.path(run.old).write_bytes(data)
    assert run.signatures().of(run.old) is None
    assert "is the signature of another manifest" in run.wrong()["signature_refused:tiny-1"]


def test_foreign_keys_signature_is_not_served(run: Run, tmp_path: Path) -> None:
    run.sign(run.old, ReleaseKey.create(tmp_path / "stranger"))
    assert run.signatures().of(run.old) is None
    assert "is by the foreign key" in run.wrong()["signature_refused:tiny-1"]


def test_run_that_names_no_key_serves_what_holds_by_itself(run: Run) -> None:
    data = run.sign(run.old)
    assert run.signatures("").of(run.old) == data


def test_new_keys_signature_is_served_once_its_rotation_is_and_the_old_keys_no_more(run: Run) -> None:
    signatures, old = run.signatures(), run.sign(run.old)
    new_key = run.rotate()
    data = run.sign(run.new, new_key)
    assert (signatures.of(run.old), signatures.of(run.new)) == (old, None)
    assert "copy the file *.rotations.json there" in run.wrong()["signature_refused:tiny-2"]
    run.publish_rotation()
    assert (signatures.of(run.old), signatures.of(run.new)) == (None, data)
    assert "is by the old release key" in run.wrong()["signature_refused:tiny-1"]
    assert signatures.rotations() == new_key.chain
    again = run.sign(run.old, new_key)
    assert (signatures.of(run.old), run.wrong()) == (again, {})


def test_no_signature_is_served_while_nobody_knows_which_key_is_the_newest(run: Run) -> None:
    signatures, data = run.signatures(), run.sign(run.old)
    run.folder.rotations.write_bytes(b"garbage")
    assert (signatures.of(run.old), signatures.rotations()) == (None, ())
    assert run.wrong().keys() == {"signature_refused:rotations.json", "signature_refused:tiny-1"}
    run.folder.rotations.unlink()
    assert (signatures.of(run.old), run.wrong()) == (data, {})


def test_rotations_of_another_runs_key_are_named(run: Run, tmp_path: Path) -> None:
    ReleaseKey.create(tmp_path / "a").rotate(tmp_path / "a", tmp_path / "b")
    shutil.copy(tmp_path / "b.rotations.json", run.folder.rotations)
    assert run.signatures().rotations() == ()
    assert "does not lead on from the run's release key" in run.wrong()["signature_refused:rotations.json"]


def test_checkpoint_that_is_withdrawn_is_no_problem_any_more(run: Run) -> None:
    signatures = run.signatures()
    run.path(run.old).write_bytes(b"garbage")
    signatures.of(run.old)
    signatures.forget(run.old.name)
    assert run.wrong() == {}
