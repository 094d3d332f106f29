"""A folder of pictures with captions, as those who fine-tune have it: `a.jpg` beside `a.txt`, or a `metadata.jsonl`.

Sub-folders are read too. In a `.txt` (or `.caption`) each line is a caption, the first one the main one, before those of a
`metadata.jsonl`; of several of these the nearest one above the picture counts.

A unit is a run of one folder's pictures in the order of their names, with a digest of those names: a folder that changes
while it is read is noticed. Memory: the names of one folder, and those in the metadata above it.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from diffusion_at_home.data.shards import MAX_IMAGE_BYTES, MAX_TEXT_BYTES
from diffusion_at_home.data.sources.columns import clean, plain_name, read_facts
from diffusion_at_home.data.sources.metadata import METADATA_NAME, Metadata
from diffusion_at_home.data.sources.source import Raw, Reason, Refused, Source
from diffusion_at_home.errors import DataError, IntegrityError

PICTURE_SUFFIXES: Final = frozenset(
    (".avif", ".bmp", ".gif", ".heic", ".jfif", ".jpeg", ".jpg", ".jxl", ".png", ".svg", ".tif", ".tiff", ".webp")
)
"""What counts as a picture; those that cannot be decoded are refused one by one, so that nobody misses them."""
CAPTION_SUFFIXES: Final = (".txt", ".caption")

_UNIT_PICTURES: Final = 256
_UNIT: Final = re.compile(r"(?P<folder>.*)\[(?P<start>\d+):(?P<stop>\d+)\]#(?P<digest>[0-9a-f]{16})")


class FolderSource(Source):
    """The pictures below `root`."""

    license = "various"

    def __init__(self, root: Path) -> None:
        self.name = plain_name(root.resolve().name)
        self.description = f"the folder {clean(root.resolve().name)}"
        self._root = root.resolve()
        self._listed: tuple[str, tuple[str, ...]] = ("", ())
        """The folder that was read last, below the root, and its pictures."""
        self._metadata: dict[Path, Metadata] = {}
        """Of that folder and those above it."""

    def units(self) -> Sequence[str]:
        """Runs of at most 256 pictures. Raises `DataError` if a folder or its metadata cannot be read, or nothing is there."""
        found = list[str]()
        for folder, names in _walk(self._root):
            Metadata(folder / METADATA_NAME)  # a mistake in it is said at once
            below = quote(os.fsencode(folder.relative_to(self._root)))
            for start in range(0, len(names), _UNIT_PICTURES):
                run = names[start : start + _UNIT_PICTURES]
                found.append(f"{below}[{start}:{start + len(run)}]#{_digest(run)}")
        if not found:
            raise DataError(f"{self._root} holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})")
        return found

    def read(self, unit: str) -> Iterator[Raw | Refused]:
        """The pictures of one run. Raises `IntegrityError` if the folder has changed."""
        match = _UNIT.fullmatch(unit)
        assert match is not None, unit
        folder = self._root / os.fsdecode(unquote_to_bytes(match["folder"]))
        run = self._names(match["folder"], folder)[int(match["start"]) : int(match["stop"])]
        if _digest(run) != match["digest"]:
            raise IntegrityError(f"{folder} has changed while it was read: leave it alone and build into a new folder")
        self._metadata = {place: known for place, known in self._metadata.items() if folder.is_relative_to(place)}
        for name in run:
            yield self._picture(folder / name)

    def _names(self, below: str, folder: Path) -> tuple[str, ...]:
        if self._listed[0] != below or not self._listed[1]:
            self._listed = (below, _pictures(folder)[0])
        return self._listed[1]

    def _picture(self, path: Path) -> Raw | Refused:
        name = os.fsencode(path.relative_to(self._root)).decode(errors="backslashreplace")
        try:
            image = _read(path, MAX_IMAGE_BYTES)
        except OSError as error:
            return Refused(name, Reason.UNREADABLE, error.strerror or "")
        if image is None:
            return Refused(name, Reason.TOO_LARGE, f"over {MAX_IMAGE_BYTES} bytes")
        record = self._record(path)
        try:
            facts = read_facts(record, captions=_captions_beside(path))
        except (OSError, ValueError) as error:
            return Refused(name, Reason.NO_CAPTION, str(error))
        source = record.get("source")
        return Raw(
            name=name,
            image=image,
            captions=facts.captions,
            source=clean(source) if isinstance(source, str) else facts.url,
            license=facts.license,
            author=facts.author,
            url=facts.url,
            scores=facts.scores,
        )

    def _record(self, path: Path) -> Mapping[str, Any]:
        """What the nearest metadata above `path` has of it."""
        for folder in (path.parent, *path.parent.parents):
            if folder not in self._metadata:
                self._metadata[folder] = Metadata(folder / METADATA_NAME)
            found = self._metadata[folder].get(path.relative_to(folder).as_posix())
            if found is not None:
                return found
            if folder == self._root:
                break
        return {}


def holds_pictures(root: Path) -> bool:
    """Whether there is any picture below `root`. Raises `DataError` if a folder cannot be read."""
    return any(names for _, names in _walk(root))


def _walk(folder: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """`folder` and all below it, each with its pictures; both in the order of their names."""
    names, folders = _pictures(folder)
    yield folder, names
    for name in folders:
        yield from _walk(folder / name)


def _pictures(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of pictures in `folder`, and those of folders in it, sorted; hidden ones and links to folders do not count."""
    names, folders = list[str](), list[str]()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith((".", "__MACOSX")):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif PurePosixPath(entry.name).suffix.lower() in PICTURE_SUFFIXES:
                    names.append(entry.name)
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}): change its owner or its rights") from None
    return tuple(sorted(names)), tuple(sorted(folders))


def _digest(names: Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name in names:
        digest.update(os.fsencode(name) + b"\0")
    return digest.hexdigest()


def _captions_beside(path: Path) -> list[str]:
    for suffix in CAPTION_SUFFIXES:
        beside = path.with_suffix(suffix)
        if beside.is_file():
            text = _read(beside, MAX_TEXT_BYTES)
            if text is None:
                raise ValueError(f"{beside.name} has over {MAX_TEXT_BYTES} bytes")
            try:
                return text.decode("utf-8-sig").splitlines()
            except UnicodeDecodeError:
                raise ValueError(f"{beside.name} is not UTF-8") from None
    return []


def _read(path: Path, max_bytes: int) -> bytes | None:
    """The bytes of a plain file, None if they are more than `max_bytes`. Raises `OSError`."""
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
        raise OSError(0, "not a plain file")
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    return data if len(data) <= max_bytes else None
