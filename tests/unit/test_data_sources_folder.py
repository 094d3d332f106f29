"""A folder's pictures come with their captions and facts, in the order of their names, whatever else lies there."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from diffusion_at_home.data.shards import MAX_IMAGE_BYTES, MAX_TEXT_BYTES
from diffusion_at_home.data.sources.folder import FolderSource
from diffusion_at_home.data.sources.source import Raw, Reason, Refused
from diffusion_at_home.errors import DataError, IntegrityError


def read(root: Path) -> list[Raw | Refused]:
    source = FolderSource(root)
    return [found for unit in source.units() for found in source.read(unit)]


def raw(root: Path) -> dict[str, Raw]:
    found = read(root)
    return {one.name: one for one in found if isinstance(one, Raw)}


def metadata(folder: Path, *lines: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_caption_lies_beside_its_picture_and_each_line_is_one(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"A")
    (tmp_path / "a.txt").write_text("a cat\na cat on a mat\n", encoding="utf-8-sig")
    (tmp_path / "b.PNG").write_bytes(b"B")
    (tmp_path / "b.caption").write_text("a dog")
    found = raw(tmp_path)
    assert [(name, one.image) for name, one in found.items()] == [("a.jpg", b"A"), ("b.PNG", b"B")]
    assert found["a.jpg"].captions == ("a cat", "a cat on a mat")
    assert found["b.PNG"].captions == ("a dog",)


def test_metadata_brings_captions_facts_and_scores(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"A")
    facts = {"license": "CC-BY-4.0", "author": "Ada", "url": "https://x.org/a", "aesthetic": 6.5, "safe": True}
    metadata(tmp_path, {"file_name": "./a.jpg", "text": "a cat", "caption": ["felis", 7]} | facts)
    (one,) = raw(tmp_path).values()
    assert one.captions == ("felis", "a cat")
    assert (one.license, one.author, one.url, one.source) == ("CC-BY-4.0", "Ada", "https://x.org/a", "https://x.org/a")
    assert one.scores == {"aesthetic": 6.5, "safe": 1.0}


def test_the_nearest_metadata_counts_and_the_roots_reaches_into_sub_folders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(name.encode())
    metadata(tmp_path, {"file_name": "a/1.jpg", "text": "of the root"}, {"file_name": "b/1.jpg", "text": "of the root"})
    metadata(tmp_path / "b", {"file_name": "1.jpg", "text": "its own"})
    assert {name: one.captions for name, one in raw(tmp_path).items()} == {
        "a/1.jpg": ("of the root",),
        "b/1.jpg": ("its own",),
    }


def test_metadata_and_a_text_beside_the_picture_are_both_captions(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"A")
    (tmp_path / "a.txt").write_text("short\nlong")
    metadata(tmp_path, {"file_name": "a.jpg", "text": ["long", "longest"]})
    assert raw(tmp_path)["a.jpg"].captions == ("short", "long", "longest")


def test_hidden_files_other_files_and_links_to_folders_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"A")
    for name in (".b.jpg", "c.mp4", "d"):
        (tmp_path / name).write_bytes(b"x")
    for name in (".git", "__MACOSX"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "e.jpg").write_bytes(b"E")
    (tmp_path / "round").symlink_to(tmp_path)
    assert [one.name for one in read(tmp_path)] == ["a.jpg"]


@pytest.mark.parametrize("name", ["ö.jpg", "a[1:2]#x.jpg", "new\nline.jpg", os.fsdecode(b"\xff.jpg")], ids=ascii)
def test_strange_names_are_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name.removesuffix(".jpg")
    folder.mkdir()
    (folder / name).write_bytes(b"A")
    (one,) = raw(tmp_path).values()
    assert one.image == b"A"
    one.name.encode()


def test_what_is_wrong_with_one_picture_is_its_own_matter(tmp_path: Path) -> None:
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    for name, caption in (("latin", b"\xe4"), ("long", b"x" * (MAX_TEXT_BYTES + 1))):
        (tmp_path / f"{name}.jpg").write_bytes(b"x")
        (tmp_path / f"{name}.txt").write_bytes(caption)
    found = {one.name: (one.reason, one.detail) for one in read(tmp_path) if isinstance(one, Refused)}
    assert found == {
        "gone.jpg": (Reason.UNREADABLE, "No such file or directory"),
        "huge.jpg": (Reason.TOO_LARGE, f"over {MAX_IMAGE_BYTES} bytes"),
        "latin.jpg": (Reason.NO_CAPTION, "latin.txt is not UTF-8"),
        "long.jpg": (Reason.NO_CAPTION, f"long.txt has over {MAX_TEXT_BYTES} bytes"),
        "pipe.jpg": (Reason.UNREADABLE, "not a plain file"),
    }


@pytest.mark.parametrize("line", ["{", "[]", "7", '{"text": "x"}', '{"file_name": 3}', '"file_name"'])
def test_a_bad_line_of_metadata_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jpg").write_bytes(b"A")
    (tmp_path / "metadata.jsonl").write_text(f'{{"file_name": "a.jpg"}}\n\n{line}\n')
    with pytest.raises(DataError, match=r"metadata\.jsonl: line 3 is not a JSON object with a file_name"):
        read(tmp_path)


def test_units_are_runs_of_at_most_256_and_any_process_reads_them_in_any_order(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number:03d}.jpg").write_bytes(b"%d" % number)
    source = FolderSource(tmp_path)
    first, second = source.units()
    elsewhere = pickle.loads(pickle.dumps(source))
    names = [one.name for unit in (second, first) for one in elsewhere.read(unit)]
    assert names == [f"{number:03d}.jpg" for number in (*range(256, 300), *range(256))]


def test_a_folder_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_bytes(b"B")
    source = FolderSource(tmp_path)
    (unit,) = source.units()
    (tmp_path / "a.jpg").write_bytes(b"A")
    with pytest.raises(IntegrityError, match="has changed while it was read"):
        list(source.read(unit))


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds no pictures \(\.avif, "):
        FolderSource(tmp_path).units()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(DataError, match=r"closed cannot be read \(Permission denied\)"):
        FolderSource(tmp_path).units()
