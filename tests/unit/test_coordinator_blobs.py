"""Blobs are whole, named by their sha256, or not there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from coordinator.blobs import BlobStore, file_sha256
from diffusion_at_home.errors import IntegrityError

DATA = b"some bytes"
NAME = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", tmp_path / "staging")


def test_bytes_are_found_by_their_digest_and_staging_is_empty(store: BlobStore) -> None:
    assert store.add_bytes(DATA) == NAME
    with store.open(NAME) as view:
        assert bytes(view) == DATA
    assert list(store.staging.iterdir()) == []


def test_staged_file_becomes_a_blob_and_twice_is_once(store: BlobStore) -> None:
    for _ in range(2):
        staged = store.staging / "staged"
        staged.write_bytes(DATA)
        store.add_file(staged, NAME)
        assert not staged.exists()
    path = store.path(NAME)
    assert path is not None
    assert file_sha256(path) == NAME


def test_copy_leaves_the_source_alone(store: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "shard.tar"
    source.write_bytes(DATA)
    store.add_copy(source, NAME)
    store.add_copy(source, NAME)
    assert source.read_bytes() == DATA
    assert store.path(NAME) is not None


@pytest.mark.parametrize("name", ["", "..", "../staging/x", NAME.upper(), NAME[:-1], NAME + "/", f"{NAME}\n"])
def test_what_is_no_digest_names_nothing(store: BlobStore, name: str) -> None:
    store.add_bytes(DATA)
    assert store.path(name) is None


def test_missing_blob_is_named(store: BlobStore) -> None:
    with pytest.raises(IntegrityError, match=f"blob {NAME} is missing"), store.open(NAME):
        pass


def test_what_nothing_refers_to_is_deleted(store: BlobStore) -> None:
    other = store.add_bytes(b"left by a process that died")
    store.add_bytes(DATA)
    store.keep_only({NAME})
    assert store.path(other) is None
    assert store.path(NAME) is not None


def test_reader_of_a_removed_blob_reads_on(store: BlobStore) -> None:
    store.add_bytes(DATA)
    with store.open(NAME) as view:
        store.remove(NAME)
        assert bytes(view) == DATA
    assert store.path(NAME) is None
