"""Parts: the pictures of a build that are ready, before they are sorted into shards.

One unit of the source becomes one part, all or nothing: `<number>.pictures`, in which each picture is followed by its facts, and
`<number>.json`, the index that is written last and makes the part complete. The index has what sorting needs and no texts,
so that millions of pictures can wait for their shards in little memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Final

from pydantic import Field, ValidationError

from diffusion_at_home.config.toml import Section, first_mistake
from diffusion_at_home.data.duplicates import PictureHash
from diffusion_at_home.data.manifest import Size
from diffusion_at_home.data.sources.source import Reason, Refused
from diffusion_at_home.errors import DataError, storage_errors
from diffusion_at_home.sync import sync_folder

_REMEDY: Final = "delete the folder {} and build again"


class Facts(Section):
    """The texts of one picture."""

    name: str
    """Unique in its source."""
    captions: Annotated[tuple[str, ...], Field(min_length=1)]
    """The first is the main one."""
    source: str
    license: str
    author: str = ""


@dataclass(frozen=True, slots=True)
class Ready:
    """One picture as it goes into a shard, with what decides where."""

    facts: Facts
    image: bytes
    """The encoded file."""
    suffix: str
    size: Size
    hash: PictureHash
    held_out: bool | None = None
    """As the source has it; None leaves it to the build."""


class PictureEntry(Section):
    """One picture of a part, without its texts."""

    name: str
    license: str
    caption_words: int
    """Of the main caption."""
    captions: int
    """How many there are."""
    suffix: str
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    hash: str
    """The perceptual one (hex)."""
    held_out: bool | None = None
    offset: int
    """Of the picture in the part's `.pictures` (bytes)."""
    image_bytes: int
    facts_bytes: int
    """Of the JSON behind the picture."""

    @property
    def size(self) -> Size:
        """The bucket."""
        return self.width, self.height


class RefusedEntry(Section):
    """One picture that cannot be used."""

    name: str
    reason: Reason
    detail: str = ""


class PartIndex(Section):
    """What one part holds."""

    unit: str
    """Of the source."""
    size_bytes: int
    """Of `.pictures`."""
    pictures: tuple[PictureEntry, ...]
    refused: tuple[RefusedEntry, ...]


def part_paths(folder: Path, number: int) -> tuple[Path, Path]:
    """Index and pictures of part `number`, the place of its unit in the source."""
    return folder / f"{number:06d}.json", folder / f"{number:06d}.pictures"


def write_part(folder: Path, number: int, unit: str, outcomes: Iterable[Ready | Refused]) -> None:
    """Write one part to `folder`, durable and all or nothing. Raises `StorageError`, and what `outcomes` raises."""
    index_path, pictures_path = part_paths(folder, number)
    pictures, refused = list[PictureEntry](), list[RefusedEntry]()
    with _all_or_nothing(pictures_path) as file:
        for outcome in outcomes:
            if isinstance(outcome, Refused):
                refused.append(
                    RefusedEntry(name=outcome.name, reason=outcome.reason, detail=_encodable(outcome.detail)[:200])
                )
            else:
                with storage_errors(folder):
                    pictures.append(_write_picture(file, outcome))
        size_bytes = file.tell()
    index = PartIndex(unit=unit, size_bytes=size_bytes, pictures=tuple(pictures), refused=tuple(refused))
    with _all_or_nothing(index_path) as file, storage_errors(folder):
        file.write(index.model_dump_json(exclude_defaults=True).encode())
    sync_folder(folder)


def is_complete(folder: Path, number: int) -> bool:
    """Whether part `number` is there."""
    return part_paths(folder, number)[0].is_file()


def read_index(folder: Path, number: int, unit: str) -> PartIndex:
    """The index of part `number`, found to be of `unit`. Raises `DataError` if the part is damaged."""
    index_path, pictures_path = part_paths(folder, number)
    try:
        index = PartIndex.model_validate_json(index_path.read_bytes())
        size_bytes = pictures_path.stat().st_size
    except ValidationError as error:
        raise DataError(f"{index_path} is damaged ({first_mistake(error)}): {_REMEDY.format(folder)}") from None
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}): {_REMEDY.format(folder)}") from None
    if (index.unit, index.size_bytes) != (unit, size_bytes):
        raise DataError(f"{pictures_path} is not what {index_path.name} says: {_REMEDY.format(folder)}")
    return index


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture waits for its shard."""

    part: int
    offset: int
    image_bytes: int
    facts_bytes: int


class PartReader:
    """Reads pictures of parts; the part that was read last stays open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._part = -1
        self._file: IO[bytes] | None = None

    def read(self, place: Place) -> tuple[bytes, Facts]:
        """The picture at `place`, and its texts. Raises `DataError` if the part is damaged."""
        path = part_paths(self._folder, place.part)[1]
        try:
            file = self._opened(place.part, path)
            file.seek(place.offset)
            data = file.read(place.image_bytes + place.facts_bytes)
            return data[: place.image_bytes], Facts.model_validate_json(data[place.image_bytes :])
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}): {_REMEDY.format(self._folder)}") from None
        except ValidationError:
            raise DataError(f"{path} is damaged: {_REMEDY.format(self._folder)}") from None

    def close(self) -> None:
        """Let go of the open part; may be called again."""
        if self._file is not None:
            self._file.close()
        self._part, self._file = -1, None

    def _opened(self, part: int, path: Path) -> IO[bytes]:
        if self._file is None or part != self._part:
            self.close()
            self._part, self._file = part, path.open("rb")
        return self._file


def _encodable(text: str) -> str:
    return text.encode(errors="replace").decode()


def _write_picture(file: IO[bytes], ready: Ready) -> PictureEntry:
    facts, offset = ready.facts.model_dump_json(exclude_defaults=True).encode(), file.tell()
    file.write(ready.image)
    file.write(facts)
    return PictureEntry(
        name=ready.facts.name,
        license=ready.facts.license,
        caption_words=len(ready.facts.captions[0].split()),
        captions=len(ready.facts.captions),
        suffix=ready.suffix,
        width=ready.size[0],
        height=ready.size[1],
        hash=ready.hash.hex(),
        held_out=ready.held_out,
        offset=offset,
        image_bytes=len(ready.image),
        facts_bytes=len(facts),
    )


@contextmanager
def _all_or_nothing(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears as `path` once it is whole and on the disk; the process is in its name on the way."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with storage_errors(path.parent):
        file = temporary.open("wb")
    try:
        yield file
        with storage_errors(path.parent):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            temporary.replace(path)
    except BaseException:  # raised again; what is half written must not stay
        with suppress(OSError):  # what could not be written before cannot be written now
            file.close()
        temporary.unlink(missing_ok=True)
        raise
