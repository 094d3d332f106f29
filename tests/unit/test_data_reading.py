"""What is wrong with the data is counted; what is wrong with the disk stops the build, which may go on another time."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from diffusion_at_home.data.parts import is_complete
from diffusion_at_home.data.picture import PictureRules
from diffusion_at_home.data.reading import Reader, read_parts
from diffusion_at_home.data.screens import Screens
from diffusion_at_home.data.sources.source import Raw, Reason, Refused, Source
from diffusion_at_home.errors import DataError
from tests.unit.picture_folder import picture


class Breaking(Source):
    """One good picture with a name of one's choice, then an error."""

    name = "breaking"
    description = "a source that breaks"
    license = "various"

    def __init__(self, name: str, error: OSError | None = None) -> None:
        self._name = name
        self._error = error

    def units(self) -> Sequence[str]:
        return ("unit",)

    def read(self, unit: str) -> Iterator[Raw | Refused]:
        yield Raw(self._name, picture(0), ("a caption",), source="", license=" ")
        if self._error is None:
            raise DataError(f"{unit} is damaged")
        try:
            raise self._error
        except OSError:
            raise DataError(f"{unit} cannot be read") from None


def reader(source: Source, folder: Path) -> Reader:
    return Reader(
        source=source,
        rules=PictureRules(((32, 32),)),
        screens=Screens(),
        folder=folder,
        license="CC0-1.0",
        origin="here",
        author="me",
    )


def test_the_rest_of_a_damaged_unit_is_one_refused_picture(tmp_path: Path) -> None:
    (part,) = read_parts(reader(Breaking("a"), tmp_path), ("unit",), 1)
    assert [entry.name for entry in part.pictures] == ["a"]
    assert [(entry.name, entry.reason, entry.detail) for entry in part.refused] == [
        ("unit", Reason.UNREADABLE, "unit is damaged")
    ]


def test_an_error_of_the_disk_stops_the_build_and_leaves_no_part(tmp_path: Path) -> None:
    source = Breaking("a", OSError(errno.EIO, "Input/output error"))
    with pytest.raises(DataError, match="unit cannot be read"):
        list(read_parts(reader(source, tmp_path), ("unit",), 1))
    assert not is_complete(tmp_path, 0)


def test_an_error_without_a_number_is_the_datas_own(tmp_path: Path) -> None:
    """As Arrow says that a page cannot be unpacked."""
    (part,) = read_parts(reader(Breaking("a", OSError("corrupt page")), tmp_path), ("unit",), 1)
    assert [entry.reason for entry in part.refused] == [Reason.UNREADABLE]


@pytest.mark.parametrize("name", ["x" * 1000, "new\nline", "half \ud800 a pair", "\x1b[31mred"], ids=ascii)
def test_any_name_can_be_written_and_stays_its_own(tmp_path: Path, name: str) -> None:
    names = set()
    for number, variant in enumerate((name, f"{name}.")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (part,) = read_parts(reader(Breaking(variant), folder), ("unit",), 1)
        (entry,) = part.pictures
        assert entry.name.isprintable()
        assert len(entry.name) <= 300
        names.add(entry.name)
    assert len(names) == 2


def test_what_the_source_does_not_say_comes_from_the_settings(tmp_path: Path) -> None:
    (part,) = read_parts(reader(Breaking("a"), tmp_path), ("unit",), 1)
    assert part.pictures[0].license == "CC0-1.0"
    facts = (tmp_path / "000000.pictures").read_bytes()[part.pictures[0].image_bytes :]
    assert facts == b'{"name":"a","captions":["a caption"],"source":"here","license":"CC0-1.0","author":"me"}'
