"""The list of rounds leads to the manifest's version, and finds what belongs to it and nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME, ROUNDS_NAME, load_manifest
from diffusion_at_home.checkpoint.rounds import Rounds, look_up, rounds_bytes
from diffusion_at_home.checkpoint.verify import verify
from diffusion_at_home.errors import ConfigError, IntegrityError
from tests.unit.tiny_checkpoint import ROUNDS, RUN_ID, export_tiny

calmly = settings(deadline=None)  # a busy machine is no mistake
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, not to be changed."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    export_tiny(folder)
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """One that may be changed."""
    return Path(shutil.copytree(exported, tmp_path / "tiny"))


def replace_rounds(folder: Path, data: bytes) -> None:
    """As an operator could who lies: the manifest vouches for it."""
    (folder / ROUNDS_NAME).write_bytes(data)
    manifest = json.loads((folder / MANIFEST_NAME).read_bytes())
    manifest["files"][ROUNDS_NAME] = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))


@calmly
@given(st.lists(st.tuples(digests, digests), min_size=1, max_size=5))
def test_what_is_written_is_read_again(versions: list[tuple[str, str]]) -> None:
    first = (versions[0][0], "")
    read = Rounds.model_validate_json(rounds_bytes(RUN_ID, [first, *versions[1:]]))
    assert (read.run_id, read.versions) == (RUN_ID, (first, *versions[1:]))


def test_shorter_list_of_a_run_begins_the_longer_one_but_for_its_last_lines() -> None:
    shorter, longer = rounds_bytes(RUN_ID, ROUNDS[:2]), rounds_bytes(RUN_ID, ROUNDS)
    assert longer.startswith(shorter.removesuffix(b"\n ]\n}\n"))


def test_hundred_thousand_rounds_are_fourteen_megabytes() -> None:
    assert len(rounds_bytes(RUN_ID, [("a" * 64, "b" * 64)] * 1000)) / 1000 == pytest.approx(139, abs=2)


def test_update_and_weights_are_found_by_digest(exported: Path) -> None:
    manifest = load_manifest(exported)
    found = look_up(exported, manifest, "e" * 64)
    assert (found.version, found.what) == (2, "update")
    found = look_up(exported, manifest, "3" * 64)
    assert (found.version, found.what) == (3, "weights")
    assert look_up(exported, manifest, "A" * 64).version == 0


def test_update_is_found_by_its_file(folder: Path, tmp_path: Path) -> None:
    update = tmp_path / "update"
    update.write_bytes(b"a difference")
    digest = hashlib.sha256(b"a difference").hexdigest()
    replace_rounds(folder, rounds_bytes(RUN_ID, [*ROUNDS[:2], (ROUNDS[2][0], digest), ROUNDS[3]]))
    found = look_up(folder, verify(folder), str(update))
    assert (found.version, found.what, found.digest) == (2, "update", digest)


def test_what_the_run_never_had_is_refused(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "update").write_bytes(b"forged")
    for what in (str(tmp_path / "update"), "9" * 64):
        with pytest.raises(IntegrityError, match="is no update and no version of the 3 rounds of tiny-00000000"):
            look_up(exported, load_manifest(exported), what)


def test_nonsense_is_no_digest(exported: Path) -> None:
    for what in ("", "nowhere", "9" * 63):
        with pytest.raises(ConfigError, match="is neither a file nor"):
            look_up(exported, load_manifest(exported), what)


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        (rounds_bytes(RUN_ID, ROUNDS[:3]), "ends in version 2 of tiny-00000000 with other weights than version 3"),
        (
            rounds_bytes(RUN_ID, [*ROUNDS[:3], ("9" * 64, "f" * 64)]),
            "ends in version 3 of tiny-00000000 with other weights",
        ),
        (rounds_bytes("other-00000000", ROUNDS), "ends in version 3 of other-00000000"),
        (b"", "is not a list of rounds"),
        (b"[" * 100_000, "is not a list of rounds"),
        (rounds_bytes(RUN_ID, []), "at least 1 item"),
        (rounds_bytes(RUN_ID, [("zz", "")]), "match pattern"),
        (rounds_bytes(RUN_ID, ROUNDS).replace(b'"format": 1', b'"format": 2'), "format"),
    ],
)
def test_list_that_does_not_lead_to_the_manifests_version_is_refused(folder: Path, rounds: bytes, said: str) -> None:
    replace_rounds(folder, rounds)
    with pytest.raises(IntegrityError, match=said) as refused:
        verify(folder)
    assert str(refused.value).startswith(str(folder / ROUNDS_NAME))


def test_checkpoint_without_rounds_is_refused(folder: Path) -> None:
    manifest: dict[str, Any] = json.loads((folder / MANIFEST_NAME).read_bytes())
    del manifest["files"][ROUNDS_NAME]
    (folder / ROUNDS_NAME).unlink()
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match=r"rounds\.json is not in the manifest"):
        verify(folder)
