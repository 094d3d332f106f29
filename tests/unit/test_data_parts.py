"""A part is there whole or not at all, and what is damaged is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from diffusion_at_home.data.duplicates import HASH_BYTES, PictureHash
from diffusion_at_home.data.parts import (
    Facts,
    PartReader,
    Place,
    Ready,
    is_complete,
    part_paths,
    read_index,
    write_part,
)
from diffusion_at_home.data.sources.source import Reason, Refused
from diffusion_at_home.errors import DataError, StorageError


def ready(name: str) -> Ready:
    facts = Facts(name=name, captions=(f"{name} it is", "further"), source="here", license="CC0-1.0", author="me")
    return Ready(facts, name.encode() * 3, "png", (32, 48), PictureHash(bytes(HASH_BYTES)), held_out=True)


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    write_part(tmp_path, 7, "unit", [ready("a"), Refused("b", Reason.BLANK, "white"), ready("c")])
    index = read_index(tmp_path, 7, "unit")
    (refused,) = index.refused
    assert (refused.name, refused.reason, refused.detail) == ("b", Reason.BLANK, "white")
    assert [(entry.name, entry.size, entry.caption_words, entry.captions) for entry in index.pictures] == [
        ("a", (32, 48), 3, 2),
        ("c", (32, 48), 3, 2),
    ]
    reader = PartReader(tmp_path)
    for entry, wanted in zip(index.pictures, (ready("a"), ready("c")), strict=True):
        place = Place(7, entry.offset, entry.image_bytes, entry.facts_bytes)
        assert reader.read(place) == (wanted.image, wanted.facts)
    reader.close()
    assert {path.name for path in tmp_path.iterdir()} == {"000007.json", "000007.pictures"}


def test_a_unit_that_cannot_be_read_leaves_no_part(tmp_path: Path) -> None:
    def outcomes() -> Iterator[Ready]:
        yield ready("a")
        raise DataError("the rest is cut off")

    with pytest.raises(DataError, match="cut off"):
        write_part(tmp_path, 0, "unit", outcomes())
    assert not is_complete(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [0, 1])
def test_a_part_that_was_cut_is_named(tmp_path: Path, cut: int) -> None:
    write_part(tmp_path, 0, "unit", [ready("a")])
    path = part_paths(tmp_path, 0)[cut]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"000000\.(json|pictures) .*: delete the folder {tmp_path} and build again"):
        read_index(tmp_path, 0, "unit")


def test_a_part_of_another_unit_is_named(tmp_path: Path) -> None:
    write_part(tmp_path, 0, "unit", [ready("a")])
    with pytest.raises(DataError, match=r"is not what 000000\.json says"):
        read_index(tmp_path, 0, "another")


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_part(tmp_path / "file", 0, "unit", [ready("a")])
