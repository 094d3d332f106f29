"""A key is made once, never leaves its file, and proves itself to one run at one time only."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from diffusion_at_home.errors import ConfigError, StorageError
from diffusion_at_home.identity import Identity, join_is_signed, worker_id


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Identity.load_or_create(tmp_path / "state" / "identity.key")


def test_a_key_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "state" / "identity.key"
    first, again = Identity.load_or_create(path), Identity.load_or_create(path)
    assert first.public_key == again.public_key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size == 32


def test_two_workers_are_two(identity: Identity, tmp_path: Path) -> None:
    assert Identity.load_or_create(tmp_path / "other.key").worker_id != identity.worker_id


def test_a_worker_is_named_by_its_public_key(identity: Identity) -> None:
    assert identity.worker_id == worker_id(identity.public_key)
    assert identity.worker_id == hashlib.sha256(identity.public_key).hexdigest()[:16]


def test_a_signature_proves_the_key_for_one_run_and_time(identity: Identity, tmp_path: Path) -> None:
    signature = identity.sign_join("digits-1", 1000)
    other = Identity.load_or_create(tmp_path / "other.key")
    assert join_is_signed(identity.public_key, "digits-1", 1000, signature)
    assert not join_is_signed(identity.public_key, "digits-2", 1000, signature)
    assert not join_is_signed(identity.public_key, "digits-1", 1001, signature)
    assert not join_is_signed(other.public_key, "digits-1", 1000, signature)
    assert not join_is_signed(identity.public_key, "digits-1", 1000, signature[:-1] + bytes([signature[-1] ^ 1]))


@pytest.mark.parametrize("key", [b"", b"x" * 31, b"\0" * 32, b"\xff" * 32, b"x" * 33])
@pytest.mark.parametrize("signature", [b"", b"x" * 64, b"\0" * 64, b"x" * 1000])
def test_nonsense_proves_nothing(key: bytes, signature: bytes) -> None:
    assert not join_is_signed(key, "digits-1", 1000, signature)


def test_run_and_time_cannot_be_confused(identity: Identity) -> None:
    assert not join_is_signed(identity.public_key, "digits", 12, identity.sign_join("digits\n1", 2))


@pytest.mark.parametrize("data", [b"", b"x" * 31, b"x" * 33, b"-----BEGIN PRIVATE KEY-----"])
def test_a_damaged_key_is_named_with_what_to_do(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "identity.key").write_bytes(data)
    with pytest.raises(ConfigError, match=r"identity\.key is not an Ed25519 key of 32 bytes: delete it"):
        Identity.load_or_create(tmp_path / "identity.key")


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose another place"):
        Identity.load_or_create(tmp_path / "file" / "identity.key")
