"""Whatever is not as the manifest says is refused by name, and so is a manifest that asks for more than files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_at_home.checkpoint.manifest import (
    MANIFEST_NAME,
    MAX_FILE_BYTES,
    MAX_MANIFEST_BYTES,
    load_manifest,
    parse_manifest,
)
from diffusion_at_home.checkpoint.verify import verify
from diffusion_at_home.errors import IntegrityError
from tests.unit.tiny_checkpoint import export_tiny

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


def refusal(folder: Path) -> str:
    with pytest.raises(IntegrityError) as refused:
        verify(folder)
    return str(refused.value)


def test_a_flipped_byte_in_any_file_is_refused_by_its_name(folder: Path) -> None:
    for name in load_manifest(folder).files:
        path = folder / name
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        assert refusal(folder).startswith(f"{name} does not have the sha256 of the manifest: do not use")
        path.write_bytes(good)
    verify(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Path.unlink, f"{WEIGHTS} is missing"),
        (lambda path: path.write_bytes(b"x"), f"{WEIGHTS} has 1 bytes instead of"),
        (lambda path: path.open("ab").close() or os.truncate(path, 100), f"{WEIGHTS} has 100 bytes instead of"),
        (lambda path: path.rename(path.with_name("other.safetensors")), f"{WEIGHTS} is missing"),
        (lambda path: path.unlink() or path.mkdir(), f"{WEIGHTS} is missing"),
        (lambda path: path.unlink() or os.mkfifo(path), f"{WEIGHTS} is missing"),
    ],
    ids=["missing", "size", "truncated", "renamed", "folder", "pipe"],
)
def test_a_changed_file_is_refused_by_its_name(folder: Path, change: Callable[[Path], object], said: str) -> None:
    change(folder / WEIGHTS)
    assert refusal(folder).startswith(said)


@pytest.mark.parametrize("name", ["extra.py", "transformer/pytorch_model.bin", ".hidden", "new/folder/x.json"])
def test_a_file_that_nobody_vouches_for_is_refused_by_its_name(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("print('hello')")
    assert refusal(folder).startswith(f"{name} is not in the manifest of {folder}")


def test_a_name_that_is_no_text_is_refused_in_a_sentence_that_can_be_printed(folder: Path) -> None:
    (folder / os.fsdecode(b"\xff\xfe")).write_bytes(b"")
    assert refusal(folder).encode().startswith(rb"\xff\xfe is not in the manifest")


def test_a_link_is_refused_even_to_the_right_bytes(folder: Path, exported: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(exported / WEIGHTS)
    assert refusal(folder).startswith(f"{WEIGHTS} is missing")


def test_a_linked_folder_is_refused_even_of_the_right_bytes(folder: Path, exported: Path) -> None:
    shutil.rmtree(folder / "transformer")
    (folder / "transformer").symlink_to(exported / "transformer")
    assert refusal(folder).startswith("transformer is not in the manifest")


def test_an_extra_link_is_refused(folder: Path) -> None:
    (folder / "link.json").symlink_to("/etc/passwd")
    assert refusal(folder).startswith("link.json is not in the manifest")


def test_a_folder_without_a_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        assert (
            refusal(place) == f"{place}/manifest.json does not exist: {place} is not a checkpoint, or not a whole one"
        )


def test_a_manifest_larger_than_any_is_not_read(folder: Path) -> None:
    os.truncate(folder / MANIFEST_NAME, MAX_MANIFEST_BYTES + 1)
    assert "is larger than any manifest" in refusal(folder)
    with pytest.raises(IntegrityError, match="is larger than any manifest"):
        parse_manifest(bytes(MAX_MANIFEST_BYTES + 1), "x")


def with_files(exported: Path, files: Any) -> bytes:
    return json.dumps(json.loads((exported / MANIFEST_NAME).read_text()) | {"files": files}).encode()


ENTRY = {"sha256": "0" * 64, "size_bytes": 1}


@pytest.mark.parametrize(
    "path",
    [
        "../x.json",
        "/etc/x.json",
        "a/../../x.json",
        "a/./x.json",
        "a//x.json",
        ".x.json",
        "",
        "a\\b.json",
        "c:x.json",
        "x.json\n",
        "ä.json",
        "a/" * 8 + "x.json",
        "x" * 130 + ".json",
        "-rf.json",
    ],
)
def test_a_path_that_is_not_plain_and_relative_is_refused(exported: Path, path: str) -> None:
    with pytest.raises(IntegrityError, match="is not plain and relative"):
        parse_manifest(with_files(exported, {path: ENTRY}), "a manifest")


@pytest.mark.parametrize("path", ["pipeline.py", "unet/pytorch_model.bin", "x.ckpt", "x.pt", "x.so", "x", "x.json.pkl"])
def test_code_and_pickles_are_no_part_of_a_checkpoint(exported: Path, path: str) -> None:
    with pytest.raises(IntegrityError, match="none of the kinds of file a checkpoint has"):
        parse_manifest(with_files(exported, {path: ENTRY}), "a manifest")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({MANIFEST_NAME: ENTRY}, "listed in itself"),
        ({"a.json": ENTRY, "a.json/b.json": ENTRY}, "'a.json' is listed as a file and as a folder"),
        ({f"{index}.json": ENTRY for index in range(513)}, "at most 512"),
        ({"a.json": {**ENTRY, "size_bytes": -1}}, "greater than or equal to 0"),
        ({"a.json": {**ENTRY, "size_bytes": MAX_FILE_BYTES + 1}}, "less than or equal to"),
        ({"a.json": {**ENTRY, "sha256": "zz"}}, "match pattern"),
        ({"a.json": {**ENTRY, "mode": 7}}, "not permitted"),
        ([], "valid dictionary|an object"),
    ],
)
def test_a_manifest_that_asks_for_the_impossible_is_refused(exported: Path, files: Any, said: str) -> None:
    with pytest.raises(IntegrityError, match=said) as refused:
        parse_manifest(with_files(exported, files), "the manifest of x")
    assert str(refused.value).startswith("the manifest of x is not a checkpoint's manifest (")
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    "call", [{"x = 1": 1}, {"prompt": "sneaky"}, {"steps": [1]}, {f"key_{'a' * i}": 1 for i in range(17)}, {"a-b": 1}]
)
def test_a_call_is_of_plain_names_and_numbers(exported: Path, call: dict[str, Any]) -> None:
    data = json.dumps(json.loads((exported / MANIFEST_NAME).read_text()) | {"call": call}).encode()
    with pytest.raises(IntegrityError, match="call"):
        parse_manifest(data, "a manifest")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | st.just(b"[" * 100_000))
def test_what_is_no_manifest_is_refused_as_such(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^x is not a checkpoint's manifest"):
        parse_manifest(data, "x")
