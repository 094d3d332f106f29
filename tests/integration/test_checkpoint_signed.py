"""Signed from end to end: an operator signs elsewhere, a coordinator serves it, a downloader believes nobody else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from coordinator.backup import back_up
from coordinator.blobs import BlobStore, read_spec
from coordinator.ledger import Ledger
from coordinator.restore import restore
from coordinator.run_folder import RunFolder
from diffusion_at_home.checkpoint.download import Demand, Downloaded, download, list_checkpoints
from diffusion_at_home.checkpoint.listing import LISTING_PATH, CheckpointListing, file_path
from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME, SIGNATURE_NAME
from diffusion_at_home.checkpoint.release_key import ReleaseKey, sign_checkpoint
from diffusion_at_home.errors import ConfigError, IntegrityError, SignatureError
from diffusion_at_home.receipt import Received
from diffusion_at_home.signing_key import is_signed
from tests.integration.checkpoint_site import Site, serving_checkpoints
from tests.integration.command_line import dah
from tests.integration.live_run import LiveRun, encoded, serving, volunteers
from tests.unit.tiny_checkpoint import export_tiny, tiny_facts
from tests.unit.tiny_data import tiny_run_folder

ONE_ROUND = (
    "run.total_images=16",
    "round.images=16",
    "lease.probe_steps=2",
    "evaluation.draws=1",
    "evaluation.max_images=4",
    "checkpoint.sampling_steps=1",
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two checkpoints of one run, not to be changed."""
    root = tmp_path_factory.mktemp("published")
    paths = (root / "tiny-000000100", root / "tiny-000000200")
    for path in paths:
        export_tiny(path, tiny_facts(path.name))
    return paths


@pytest.fixture
def folders(exported: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The same, to be signed."""
    older, newer = (Path(shutil.copytree(path, tmp_path / "published" / path.name)) for path in exported)
    return older, newer


@pytest.fixture
def key(tmp_path: Path) -> ReleaseKey:
    return ReleaseKey.create(tmp_path / "keys" / "first")


@pytest.fixture
def site(folders: tuple[Path, Path], key: ReleaseKey) -> Iterator[Site]:
    """Offers both; the newer one is signed."""
    sign_checkpoint(folders[1], key)
    with serving_checkpoints(*folders) as site:
        relist(site, folders[1].name)
        yield site


def relist(site: Site, *signed: str, **changes: Any) -> None:
    """Let the site list `signed` as signed."""
    listing = CheckpointListing.model_validate_json(site.pages[LISTING_PATH])
    listed = [one.model_copy(update={"signed": one.name in signed}) for one in listing.checkpoints]
    site.pages[LISTING_PATH] = (
        listing.model_copy(update={"checkpoints": tuple(listed), **changes}).model_dump_json().encode()
    )


def bring(site: Site, out: Path, key: str = "", which: str = "latest", *, signature: bool = False) -> Downloaded:
    return download(site.url, which, out, lambda *_: None, Demand(key, signature))


def refusal(site: Site, out: Path, key: str = "", which: str = "latest", *, signature: bool = False) -> str:
    with pytest.raises(SignatureError) as refused:
        bring(site, out, key, which, signature=signature)
    assert not out.exists()
    assert not any(path.endswith(".safetensors") for path, _ in site.asked), "refused after gigabytes"
    return str(refused.value)


# -- a downloader ---------------------------------------------------------------------------------------------------------


def test_signed_checkpoint_comes_with_its_signature(site: Site, tmp_path: Path, key: ReleaseKey) -> None:
    done = bring(site, tmp_path / "mine", key.public_key)
    assert done.vouched is not None
    assert (done.vouched.public_key, done.vouched.trusted) == (key.public_key, True)
    found = dah("checkpoint", "verify", tmp_path / "mine", "--key", key.public_key, "--json").result
    assert (found["signed_by"], found["key_from"]) == (key.public_key, "--key")


def test_address_may_name_the_key_and_is_then_believed(site: Site, tmp_path: Path, key: ReleaseKey) -> None:
    vouched = bring(site, tmp_path / "a").vouched
    assert vouched is not None
    assert not vouched.trusted
    relist(site, "tiny-000000200", release_key=key.public_key)
    vouched = bring(site, tmp_path / "b", signature=True).vouched
    assert vouched is not None
    assert vouched.trusted


def test_unsigned_checkpoint_is_refused_where_it_must_be_signed(site: Site, tmp_path: Path, key: ReleaseKey) -> None:
    assert bring(site, tmp_path / "a", which="best").vouched is None
    site.asked.clear()
    assert "nobody vouches" in refusal(site, tmp_path / "mine", key.public_key, "best")
    assert "nobody vouches" in refusal(site, tmp_path / "mine", which="best", signature=True)


def test_server_that_hides_a_signature_gains_nothing(site: Site, tmp_path: Path, key: ReleaseKey) -> None:
    relist(site)
    assert "nobody vouches" in refusal(site, tmp_path / "mine", key.public_key)


def test_foreign_key_is_refused_whatever_the_address_says(site: Site, tmp_path: Path, key: ReleaseKey) -> None:
    mine = ReleaseKey.create(tmp_path / "mine.key").public_key
    relist(site, "tiny-000000200", release_key=key.public_key)
    assert f"is by the foreign key {key.public_key}" in refusal(site, tmp_path / "mine", mine)


@pytest.mark.parametrize("signature", [b"", b"garbage", b"x" * 60_000, b"{}"])
def test_garbage_is_refused_also_where_no_signature_is_wanted(site: Site, tmp_path: Path, signature: bytes) -> None:
    site.pages[site.path_of(SIGNATURE_NAME)] = signature
    assert "signature.json of tiny-000000200 is not a checkpoint's signature" in refusal(site, tmp_path / "mine")


def test_endless_signature_is_cut_off(site: Site, tmp_path: Path) -> None:
    path = site.path_of(SIGNATURE_NAME)
    site.pages[path] = b"x" * 10_000_000
    with pytest.raises(IntegrityError, match="is larger than 65536 bytes"):
        bring(site, tmp_path / "mine")


def test_signature_of_another_checkpoint_is_refused(
    site: Site, tmp_path: Path, key: ReleaseKey, folders: tuple[Path, Path]
) -> None:
    site.pages[file_path(folders[0].name, SIGNATURE_NAME)] = site.pages[site.path_of(SIGNATURE_NAME)]
    relist(site, folders[0].name)
    assert "is the signature of another manifest" in refusal(site, tmp_path / "mine", key.public_key, "best")


def test_another_checkpoint_with_its_signature_is_refused_under_this_ones_name(
    site: Site, tmp_path: Path, key: ReleaseKey, folders: tuple[Path, Path]
) -> None:
    """A server that offers an old checkpoint, truly signed, as the newest one."""
    older, newer = (folder.name for folder in folders)
    sign_checkpoint(folders[0], key)
    listing = CheckpointListing.model_validate_json(site.pages[LISTING_PATH])
    lie = listing.checkpoints[0].model_copy(update={"name": newer, "signed": True})
    relist(site, newer, checkpoints=(lie,))
    site.pages[file_path(newer, MANIFEST_NAME)] = (folders[0] / MANIFEST_NAME).read_bytes()
    site.pages[file_path(newer, SIGNATURE_NAME)] = (folders[0] / SIGNATURE_NAME).read_bytes()
    with pytest.raises(IntegrityError, match=f"what is listed as {newer} of tiny-00000000 is {older}"):
        bring(site, tmp_path / "mine", key.public_key)


def test_old_key_is_refused_once_the_run_tells_of_its_rotation(site: Site, tmp_path: Path, key: ReleaseKey) -> None:
    new = key.rotate(tmp_path / "keys" / "first", tmp_path / "keys" / "second")
    relist(site, "tiny-000000200", rotations=new.chain)
    assert "is by the old release key" in refusal(site, tmp_path / "mine", key.public_key)
    assert "is by the old release key" in refusal(site, tmp_path / "mine")


def test_checkpoint_that_is_there_gets_the_signature_that_it_has_by_now(
    site: Site, tmp_path: Path, key: ReleaseKey, folders: tuple[Path, Path]
) -> None:
    out = tmp_path / "mine"
    assert bring(site, out, which="best").vouched is None
    sign_checkpoint(folders[0], key)
    site.pages[file_path(folders[0].name, SIGNATURE_NAME)] = (folders[0] / SIGNATURE_NAME).read_bytes()
    relist(site, *(folder.name for folder in folders))
    sent = sum(site.sent.values())
    assert bring(site, out, key.public_key, "best").vouched is not None
    assert sum(site.sent.values()) - sent < 10_000
    assert (out / SIGNATURE_NAME).is_file()


# -- the command line -------------------------------------------------------------------------------------------------------


def test_keys_are_made_rotated_and_sign_by_command(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    first = dah("checkpoint", "key", "new", tmp_path / "first", "--json").result["public_key"]
    signed = dah("checkpoint", "sign", folders[0], "--key", tmp_path / "first", "--json").result
    assert (signed["public_key"], signed["files_checked"]) == (first, True)
    rotated = dah("checkpoint", "key", "rotate", tmp_path / "first", tmp_path / "second", "--json").result
    said = dah("checkpoint", "sign", folders[0], "--key", tmp_path / "first").refuses(ConfigError.exit_code)
    assert f"has passed to {rotated['public_key']}" in said
    rotations = ("--rotations", rotated["rotations"])
    assert dah("checkpoint", "verify", folders[0], "--key", first).code == 0
    said = dah("checkpoint", "verify", folders[0], "--key", first, *rotations).refuses(SignatureError.exit_code)
    assert "is by the old release key" in said
    dah("checkpoint", "sign", folders[0], "--key", tmp_path / "second", "--json").result  # noqa: B018 -- it must succeed
    found = dah("checkpoint", "verify", folders[0], "--key", first, *rotations)
    assert found.code == 0, found.err
    assert "This proves:" in found.out
    assert "This does not prove:" in found.out


def test_each_kind_of_distrust_has_its_exit_code(folders: tuple[Path, Path]) -> None:
    verify = ("checkpoint", "verify", folders[0])
    assert "nobody vouches" in dah(*verify, "--require-signature").refuses(SignatureError.exit_code)
    assert "is no public key" in dah(*verify, "--key", "abc").refuses(ConfigError.exit_code)
    (folders[0] / "README.md").write_text("changed")
    dah(*verify, "--key", "0" * 64).refuses(IntegrityError.exit_code)


def test_rounds_are_looked_up_by_command(folders: tuple[Path, Path]) -> None:
    found = dah("checkpoint", "rounds", folders[0], "e" * 64, "--json").result
    assert found == {"run_id": "tiny-00000000", "version": 2, "what": "update", "digest": "e" * 64}
    assert "is no update" in dah("checkpoint", "rounds", folders[0], "9" * 64).refuses(IntegrityError.exit_code)


# -- a coordinator ----------------------------------------------------------------------------------------------------------


def one_round(run: LiveRun) -> tuple[str, Received, bytes]:
    """Train it; the checkpoint's name, and a receipt with its signature."""
    with volunteers(run, 1) as (anna,):
        grant, data = anna.lease(), encoded(run, 0.001)
        reply = anna.submit(grant, data)
        again = anna.submit(grant, data)
        assert again.signature == reply.signature
        received = Received(
            run_id=anna.run_id,
            contribution_id=reply.contribution_id,
            worker_id=anna.identity.worker_id,
            lease_id=grant.lease_id,
            sha256=anna.header(grant, data).sha256,
            images=reply.images,
            round=reply.round,
        )
    while not (found := run.get("/checkpoints.json").json()["checkpoints"]):
        pass
    return str(found[0]["name"]), received, reply.signature


def problems(run: LiveRun) -> list[str]:
    return [problem["name"] for problem in run.status()["live"]["problems"]]


@pytest.mark.slow
def test_coordinator_serves_what_the_operator_has_signed_elsewhere_and_keeps_its_own_key_in_backups(
    tmp_path: Path, key: ReleaseKey
) -> None:
    folder = tiny_run_folder(tmp_path, *ONE_ROUND, f"release.public_key='{key.public_key}'")
    assert folder.receipt_key.stat().st_mode & 0o777 == 0o600
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with serving(folder) as run:
        name, received, receipt = one_round(run)
        run_key = bytes.fromhex(run.get("/run.json").json()["receipt_key"])
        assert is_signed(run_key, received.message(), receipt)
        path = f"/checkpoints/{name}/{SIGNATURE_NAME}"
        assert run.get(path).status_code == 404
        (elsewhere / MANIFEST_NAME).write_bytes(run.get(f"/checkpoints/{name}/{MANIFEST_NAME}").content)
        target = folder.checkpoints / name / SIGNATURE_NAME
        target.write_bytes(b"garbage")
        assert not list_checkpoints(run.address).checkpoints[0].signed
        assert run.get(path).status_code == 404
        assert problems(run) == [f"signature_refused:{name}"]
        shutil.copy(sign_checkpoint(elsewhere / MANIFEST_NAME, key).signature, target)
        done = download(run.address, name, tmp_path / "mine", lambda *_: None, Demand(signature=True))
        assert done.vouched is not None
        assert done.vouched.trusted
        assert len(done.manifest.files["rounds.json"].sha256) == 64
        assert problems(run) == []
        update = folder.blobs / newest_update(folder)
        found = dah("checkpoint", "rounds", tmp_path / "mine", update, "--json").result
        assert (found["version"], found["what"]) == (1, "update")

    backup, restored = RunFolder(tmp_path / "backup"), RunFolder(tmp_path / "restored")
    back_up(folder, backup)
    new = key.rotate(tmp_path / "keys" / "first", tmp_path / "keys" / "second")
    shutil.copy(sign_checkpoint(elsewhere / MANIFEST_NAME, new).signature, target)
    shutil.copy(tmp_path / "keys" / "second.rotations.json", folder.rotations)
    back_up(folder, backup)
    restore(backup, restored)
    assert restored.receipt_key.read_bytes() == folder.receipt_key.read_bytes()
    assert restored.receipt_key.stat().st_mode & 0o777 == 0o600
    with serving(restored) as run:
        listing = list_checkpoints(run.address)
        assert (listing.release_key, listing.rotations, listing.checkpoints[0].signed) == (
            key.public_key,
            new.chain,
            True,
        )
        assert download(run.address, name, tmp_path / "again", lambda *_: None, Demand(key.public_key)).vouched


def newest_update(folder: RunFolder) -> str:
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        return ledger.versions()[-1].update_sha256


def test_coordinator_does_not_start_without_the_runs_own_key(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ONE_ROUND)
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        spec = read_spec(BlobStore(folder.blobs, folder.staging), ledger.spec_sha256())
    assert len(spec.receipt_key) == 64
    folder.receipt_key.write_bytes(b"x" * 32)
    said = dah("coordinator", "run", folder.root, "--http-port", "0", "--grpc-port", "0").refuses(ConfigError.exit_code)
    assert said.startswith(f"{folder.receipt_key} is not the key of the run {spec.run_id}: restore it from a backup")
    folder.receipt_key.unlink()
    said = dah("coordinator", "run", folder.root, "--http-port", "0", "--grpc-port", "0").refuses(ConfigError.exit_code)
    assert said.startswith(f"{folder.receipt_key} does not exist: restore it from a backup")
