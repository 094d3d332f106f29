"""A release key is its owner's alone, signs until it has passed on, and signs no checkpoint that is not what it says."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME, SIGNATURE_NAME
from diffusion_at_home.checkpoint.proof import prove
from diffusion_at_home.checkpoint.release_key import ReleaseKey, sign_checkpoint
from diffusion_at_home.checkpoint.rotation import MAX_ROTATIONS, load_rotations
from diffusion_at_home.checkpoint.signature import Trust
from diffusion_at_home.checkpoint.verify import verify
from diffusion_at_home.errors import ConfigError, IntegrityError, SignatureError, StorageError
from tests.unit.tiny_checkpoint import export_tiny, tiny_facts, tiny_spec

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


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


@pytest.fixture
def key(tmp_path: Path) -> ReleaseKey:
    return ReleaseKey.create(tmp_path / "first.key")


def given(key: ReleaseKey) -> Trust:
    return Trust(key.public_key, required=True)


# -- the file -----------------------------------------------------------------------------------------------------------


def test_key_is_made_once_and_for_its_owner_alone(tmp_path: Path, key: ReleaseKey) -> None:
    path = tmp_path / "first.key"
    assert ReleaseKey.load(path).public_key == key.public_key
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_size) == (0o600, 32)
    with pytest.raises(ConfigError, match="exists already: name a new file"):
        ReleaseKey.create(path)
    assert ReleaseKey.load(path).public_key == key.public_key


@pytest.mark.usefixtures("key")
def test_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "first.key").chmod(0o640)
    with pytest.raises(ConfigError, match=r"others may read .*first\.key \(mode 640\): chmod 600"):
        ReleaseKey.load(tmp_path / "first.key")


@pytest.mark.parametrize("data", [b"", b"x" * 31, b"x" * 33, b"-----BEGIN PRIVATE KEY-----"])
def test_file_that_is_no_key_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "no.key").write_bytes(data)
    with pytest.raises(ConfigError, match=r"no\.key is not an Ed25519 key of 32 bytes: name the file"):
        ReleaseKey.load(tmp_path / "no.key")


def test_missing_file_and_missing_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"nowhere does not exist: name the file that `dah checkpoint key new` has made"
    ):
        ReleaseKey.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose another place"):
        ReleaseKey.create(tmp_path / "file" / "my.key")


# -- rotation -----------------------------------------------------------------------------------------------------------


def test_new_key_signs_and_the_old_one_no_more(tmp_path: Path, key: ReleaseKey, folder: Path) -> None:
    new = key.rotate(tmp_path / "first.key", tmp_path / "second.key")
    assert ReleaseKey.load(tmp_path / "second.key").chain == new.chain
    with pytest.raises(ConfigError, match=f"has passed to {new.public_key}: use the file of that key"):
        ReleaseKey.load(tmp_path / "first.key")
    sign_checkpoint(folder, ReleaseKey.load(tmp_path / "second.key"))
    for root in (key, new):
        vouched = prove(folder, given(root)).vouched
        assert vouched is not None
        assert (vouched.public_key, vouched.trusted) == (new.public_key, True)


def test_rotation_goes_on_from_the_last_one(tmp_path: Path, key: ReleaseKey) -> None:
    second = key.rotate(tmp_path / "first.key", tmp_path / "second.key")
    third = ReleaseKey.load(tmp_path / "second.key").rotate(tmp_path / "second.key", tmp_path / "third.key")
    chain = load_rotations(tmp_path / "third.key.rotations.json")
    assert [(r.old, r.new) for r in chain] == [
        (key.public_key, second.public_key),
        (second.public_key, third.public_key),
    ]


def test_rotation_that_died_half_way_leaves_no_key_that_could_have_a_second_heir(
    tmp_path: Path, key: ReleaseKey
) -> None:
    new = key.rotate(tmp_path / "first.key", tmp_path / "second.key")
    beside_new = tmp_path / "second.key.rotations.json"
    beside_new.unlink()
    with pytest.raises(ConfigError, match=f"has passed to {new.public_key}"):
        ReleaseKey.load(tmp_path / "first.key")
    shutil.copy(tmp_path / "first.key.rotations.json", beside_new)
    assert ReleaseKey.load(tmp_path / "second.key").chain == new.chain


@pytest.mark.usefixtures("key")
def test_another_keys_rotations_are_refused(tmp_path: Path) -> None:
    ReleaseKey.create(tmp_path / "other.key").rotate(tmp_path / "other.key", tmp_path / "second.key")
    shutil.copy(tmp_path / "second.key.rotations.json", tmp_path / "first.key.rotations.json")
    with pytest.raises(ConfigError, match="is another key's"):
        ReleaseKey.load(tmp_path / "first.key")


def test_there_are_no_more_rotations_than_readers_take(tmp_path: Path, key: ReleaseKey, folder: Path) -> None:
    last, path = key, tmp_path / "first.key"
    for number in range(MAX_ROTATIONS):
        last, path = last.rotate(path, tmp_path / f"{number}.key"), tmp_path / f"{number}.key"
    sign_checkpoint(folder, last)
    assert prove(folder, given(key)).vouched is not None
    with pytest.raises(ConfigError, match="which is the most"):
        last.rotate(path, tmp_path / "one-too-many.key")


# -- a checkpoint -------------------------------------------------------------------------------------------------------


def test_signed_folder_verifies_and_says_what_that_proves(folder: Path, key: ReleaseKey) -> None:
    assert sign_checkpoint(folder, key).files_checked
    verify(folder)
    proof = prove(folder, given(key))
    assert any(f"The release key {key.public_key} has signed that manifest" in sentence for sentence in proof.proves)
    assert any("rotated since" in sentence for sentence in proof.does_not_prove)
    assert any("poisoned" in sentence for sentence in proof.does_not_prove)


def test_unsigned_folder_says_that_nobody_vouches(exported: Path) -> None:
    proof = prove(exported, Trust())
    assert (proof.vouched, len(proof.proves)) == (None, 1)
    assert "nobody has signed it" in proof.does_not_prove[0]


def test_signed_folder_without_a_key_says_that_nobody_names_the_key(folder: Path, key: ReleaseKey) -> None:
    sign_checkpoint(folder, key)
    proof = prove(folder, Trust())
    assert proof.vouched is not None
    assert not proof.vouched.trusted
    assert "nothing but the file itself names that key" in proof.does_not_prove[0]


def test_manifest_alone_can_be_signed_on_another_machine(folder: Path, key: ReleaseKey, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(folder / MANIFEST_NAME, elsewhere)
    signed = sign_checkpoint(elsewhere / MANIFEST_NAME, key)
    assert not signed.files_checked
    assert signed.signature == elsewhere / SIGNATURE_NAME
    shutil.copy(signed.signature, folder)
    assert prove(folder, given(key)).vouched is not None


def test_damaged_checkpoint_is_not_signed(folder: Path, key: ReleaseKey) -> None:
    (folder / WEIGHTS).write_bytes(b"other weights")
    with pytest.raises(IntegrityError, match=WEIGHTS):
        sign_checkpoint(folder, key)
    assert not (folder / SIGNATURE_NAME).exists()


def test_wrong_signature_is_replaced(folder: Path, key: ReleaseKey) -> None:
    (folder / SIGNATURE_NAME).write_bytes(b"garbage")
    with pytest.raises(SignatureError, match=r"signature\.json is not a checkpoint's signature"):
        verify(folder)
    sign_checkpoint(folder, key)
    verify(folder)


def test_run_that_names_a_release_key_is_signed_by_it_or_its_heirs_alone(tmp_path: Path, key: ReleaseKey) -> None:
    folder = tmp_path / "named"
    export_tiny(folder, tiny_facts(spec=tiny_spec(f"release.public_key='{key.public_key}'")))
    stranger = ReleaseKey.create(tmp_path / "stranger.key")
    with pytest.raises(
        ConfigError, match=f"names the release key {key.public_key}, which is not {stranger.public_key}"
    ):
        sign_checkpoint(folder, stranger)
    sign_checkpoint(folder, key)
    sign_checkpoint(folder, key.rotate(tmp_path / "first.key", tmp_path / "second.key"))
    assert prove(folder, given(key)).vouched is not None


@pytest.mark.parametrize("kind", ["link", "folder", "broken link"])
def test_signature_that_is_no_file_is_refused(folder: Path, key: ReleaseKey, tmp_path: Path, kind: str) -> None:
    sign_checkpoint(folder, key)
    path = folder / SIGNATURE_NAME
    elsewhere = path.rename(tmp_path / "signature")
    match kind:
        case "link":
            path.symlink_to(elsewhere)
        case "broken link":
            path.symlink_to(tmp_path / "nowhere")
        case _:
            path.mkdir()
    with pytest.raises((IntegrityError, SignatureError), match=r"signature\.json is not"):
        verify(folder)


def test_signature_of_another_checkpoint_of_the_run_is_refused(
    folder: Path, exported: Path, key: ReleaseKey, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    export_tiny(older, tiny_facts("tiny-000000050"))
    sign_checkpoint(older, key)
    shutil.copy(older / SIGNATURE_NAME, folder)
    with pytest.raises(SignatureError, match="is the signature of another manifest"):
        prove(folder, given(key))
    assert prove(exported, Trust()).vouched is None
