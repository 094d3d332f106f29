"""WebDataset tars, as img2dataset and many others write them, read as if an enemy had made them.

A sample is the run of members whose names are the same up to the first dot of the last part: 000000123.jpg, 000000123.txt,
000000123.json (github.com/webdataset/webdataset; github.com/rom1504/img2dataset, "Output format"). Its picture is the first
member with one of `IMAGE_SUFFIXES`, its captions are the .txt and what the .json has under the names in `columns.py`.
Other members are passed by.

A unit is a piece of a tar, named by its first byte and the one behind its last, so that it is found without reading what
lies before; `units` reads the headers alone, once. Where a tar is damaged, the rest of it is one more unit, which cannot be
read: what lies before is still used. Nothing larger than the limits of `data/shards.py` is ever read. Compressed tars are
refused: they cannot be read in pieces.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, Final

from diffusion_at_home.data.shards import MAX_IMAGE_BYTES, MAX_TEXT_BYTES
from diffusion_at_home.data.sources.columns import MAX_WORDS, plain_name, read_facts
from diffusion_at_home.data.sources.source import Raw, Reason, Refused, Source
from diffusion_at_home.data.sources.tar_members import DamagedTar, Member, read_members
from diffusion_at_home.errors import DataError

IMAGE_SUFFIXES: Final = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")

_LIMITS: Final = {**dict.fromkeys(IMAGE_SUFFIXES, MAX_IMAGE_BYTES), "txt": MAX_TEXT_BYTES, "json": MAX_TEXT_BYTES}
_UNIT_SAMPLES: Final = 500
_COMPRESSED: Final = ("*.tar.gz", "*.tgz", "*.tar.zst", "*.tar.xz", "*.tar.bz2")


class WebDatasetSource(Source):
    """One tar, or all in a folder and the folders in it."""

    license = "various"

    def __init__(self, path: Path, *, unit_samples: int = _UNIT_SAMPLES) -> None:
        """Look for the tars: a .tar, or a folder. Raises `DataError` if there is none, or one is compressed."""
        path = path.resolve()
        self.name = plain_name(path.stem if path.is_file() else path.name)
        self.description = f"the WebDataset {path.name}"
        self._unit_samples = unit_samples
        self._folder = path.parent if path.is_file() else path
        self._tars = _find(path)

    def units(self) -> Sequence[str]:
        """Pieces of some hundred samples: the headers of all tars are read for this, their contents are not."""
        found: list[str] = []
        for tar in self._tars:
            found.extend(f"{tar}@{start}-{stop}" for start, stop in self._pieces(tar))
        if not found:
            raise DataError(
                f"the tars in {self._folder} hold no samples: a sample is 0001.jpg and 0001.txt, for instance"
            )
        return found

    def read(self, unit: str) -> Iterator[Raw | Refused]:
        """The samples of one piece."""
        tar, start, stop = _parse(unit)
        path, seen = self._folder / tar, set[str]()
        try:
            with path.open("rb") as file:
                # Up to where the piece ends there is nothing but the piece, as if the file ended there; the last one goes on.
                members = read_members(file, start, min(stop, path.stat().st_size))
                for key, group in groupby(members, key=_key):
                    name = f"{tar}/{key[:MAX_WORDS]}"
                    if key in seen:
                        yield Refused(name, Reason.UNREADABLE, "its name came before")
                    elif item := _sample(file, name, group):
                        seen.add(key)
                        yield item
        except DamagedTar as error:
            raise DataError(f"{path} is no tar, or is damaged: {error}") from None
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror})") from None

    def _pieces(self, tar: str) -> Iterator[tuple[int, int]]:
        """First byte of each piece, and the first one behind it."""
        path = self._folder / tar
        try:
            file_bytes = path.stat().st_size
            with path.open("rb") as file:
                start, count, last_key = 0, 0, None
                try:
                    for member in read_members(file, 0, file_bytes):
                        key = _key(member)
                        count += key != last_key
                        last_key = key
                        if count > self._unit_samples:
                            yield start, member.start
                            start, count = member.start, 1
                except DamagedTar as error:
                    if start < error.start:
                        yield start, error.start
                    start, count = error.start, 1
                if count:
                    yield start, file_bytes
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror})") from None


def _find(path: Path) -> tuple[str, ...]:
    """Names of tars, relative to their folder, in order."""
    if path.is_file():
        if not path.name.endswith(".tar"):
            raise DataError(f"{path} is no .tar: unpack it first, for pieces of a compressed one cannot be read apart")
        return (path.name,)
    compressed = sorted(found for pattern in _COMPRESSED for found in path.rglob(pattern))
    if compressed:
        raise DataError(
            f"{compressed[0]} is compressed: unpack it to a .tar first, for its pieces cannot be read apart"
        )
    tars = tuple(sorted(found.relative_to(path).as_posix() for found in path.rglob("*.tar") if found.is_file()))
    if not tars:
        raise DataError(f"there is no .tar in {path}")
    return tars


def _parse(unit: str) -> tuple[str, int, int]:
    tar, _, piece = unit.rpartition("@")
    start, _, stop = piece.partition("-")
    if not (tar and start.isdigit() and stop.isdigit()):
        raise DataError(f"{unit!r} is no piece of a tar")
    return tar, int(start), int(stop)


def _split(name: str) -> tuple[str, str]:
    """Key and suffix: "a/b.c/d.seg.PNG" is ("a/b.c/d", "seg.png")."""
    folder, slash, last = name.removeprefix("./").rpartition("/")
    stem, _, suffix = last.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


def _key(member: Member) -> str:
    return _split(member.name)[0]


def _sample(file: BinaryIO, name: str, members: Iterator[Member]) -> Raw | Refused | None:
    """What the members of one key make; None where they are of another kind than pictures and their texts."""
    parts: dict[str, bytes] = {}
    refused = None
    for member in members:
        suffix = _split(member.name)[1]
        kind = "image" if suffix in IMAGE_SUFFIXES else suffix
        if suffix not in _LIMITS or kind in parts:
            continue
        parts[kind] = b""
        if member.size > _LIMITS[suffix]:
            detail = f".{suffix} has {member.size} bytes, over the limit of {_LIMITS[suffix]}"
            refused = refused or Refused(name, Reason.TOO_LARGE, detail)
        elif not member.whole:
            refused = refused or Refused(name, Reason.UNREADABLE, f"the tar ends within its .{suffix}")
        else:
            file.seek(member.data)
            parts[kind] = file.read(member.size)
    if not parts or refused:
        return refused
    if "image" not in parts:
        return Refused(name, Reason.UNREADABLE, f"it has .{', .'.join(sorted(parts))} and no picture")
    return _raw(name, parts)


def _raw(name: str, parts: dict[str, bytes]) -> Raw | Refused:
    try:
        record = json.loads(parts["json"]) if parts.get("json") else {}
        caption = parts["txt"].decode() if "txt" in parts else ""
    except (ValueError, RecursionError) as error:
        return Refused(name, Reason.UNREADABLE, f"its .json or .txt cannot be read ({type(error).__name__})")
    if not isinstance(record, dict):
        return Refused(name, Reason.UNREADABLE, "its .json is no object")
    facts = read_facts(record, captions=(caption,))
    return Raw(
        name=name,
        image=parts["image"],
        captions=facts.captions,
        source=facts.url,
        license=facts.license,
        author=facts.author,
        url=facts.url,
        scores=facts.scores,
    )
