"""Data sets in parquet files, as Hugging Face has them (extra 'parquet'): a column of encoded pictures, and columns of text.

The picture is a struct of `bytes` and `path` (the Image feature of Hugging Face's `datasets`) or plain bytes; `columns.py` knows
what other columns are called. A unit is one row group. A file whose footer cannot be read is one unit, which cannot be read.

Of a row group a few rows at a time are unpacked, but Arrow reads a page whole, and its writer ends none before 1,024 rows:
memory is about twice that of so many pictures, or of a row group where it has fewer (100 as `datasets` writes them). What a
page may unpack to is Arrow's to bound (2 GiB); what a picture may be is bounded here.

Only this module imports pyarrow, and only when called.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from diffusion_at_home.data.shards import MAX_IMAGE_BYTES, MAX_TEXT_BYTES
from diffusion_at_home.data.sources.columns import (
    AUTHOR_NAMES,
    CAPTION_NAMES,
    LICENSE_NAMES,
    MAX_SCORES,
    URL_NAMES,
    plain_name,
    read_facts,
)
from diffusion_at_home.data.sources.source import Raw, Reason, Refused, Source
from diffusion_at_home.errors import DataError

IMAGE_NAMES: Final = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "image_bytes", "bytes")
"""Best first; any other name will do where only one column can hold pictures."""

_BATCH_BYTES: Final = 32 * 2**20
"""About what is in memory at once."""
_MAX_BATCH_ROWS: Final = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns of a file are read, by name."""

    image: str
    image_bytes: str
    """The column within it that is read, in parquet's dotted form; the `path` beside it is not."""
    captions: tuple[str, ...]
    """The main one first."""
    others: tuple[str, ...]
    """URL, licence, author and numbers."""


class ParquetSource(Source):
    """One parquet file, or all in a folder and the folders in it."""

    license = "various"

    def __init__(self, path: Path, *, image_column: str = "", caption_columns: Sequence[str] = ()) -> None:
        """Look for the files.

        Args:
            path: a .parquet, or a folder.
            image_column: otherwise found by type and name.
            caption_columns: the main one first; otherwise found by name.

        Raises:
            DataError: there is none, or pyarrow is missing.
        """
        _pyarrow()
        path = path.resolve()
        self.name = plain_name(path.stem if path.is_file() else path.name)
        self.description = f"the parquet data set {path.name}"
        self._image_column = image_column
        self._caption_columns = tuple(caption_columns)
        self._folder = path.parent if path.is_file() else path
        self._files = (path.name,) if path.is_file() else _find(path)

    def units(self) -> Sequence[str]:
        """Row groups: "file@number". Reads all footers; raises `DataError` also where a file lacks a column."""
        found: list[str] = []
        for file in self._files:
            try:
                with _open(self._folder / file) as parquet:
                    facts, schema = parquet.metadata, parquet.schema_arrow
            except DataError:
                found.append(f"{file}@0")  # `read` says why
                continue
            find_layout(schema, f"{self._folder / file}", self._image_column, self._caption_columns)
            groups = range(facts.num_row_groups)
            found.extend(f"{file}@{group}" for group in groups if facts.row_group(group).num_rows)
        if not found:
            raise DataError(f"the parquet files in {self._folder} have no rows")
        return found

    def read(self, unit: str) -> Iterator[Raw | Refused]:
        """The rows of one row group."""
        file, _, number = unit.rpartition("@")
        if not file or not number.isdigit():
            raise DataError(f"{unit!r} is no row group of a parquet file")
        group, path = int(number), self._folder / file
        arrow = _pyarrow()
        try:
            with _open(path) as parquet:
                if group >= parquet.metadata.num_row_groups:
                    raise DataError(f"{path} has no row group {group}: it has changed")
                layout = find_layout(parquet.schema_arrow, str(path), self._image_column, self._caption_columns)
                row = sum(parquet.metadata.row_group(before).num_rows for before in range(group))
                batches = parquet.iter_batches(
                    batch_size=_batch_rows(parquet.metadata.row_group(group)),
                    row_groups=[group],
                    columns=[layout.image_bytes, *layout.captions, *layout.others],
                    use_threads=False,
                )
                for batch in batches:
                    for index in range(batch.num_rows):
                        yield _row(batch, index, layout, f"{file}/{row}")
                        row += 1
        except (arrow.ArrowException, OSError, ValueError, LookupError) as error:
            raise DataError(f"row group {group} of {path} cannot be read ({_sentence(error)})") from None


def find_layout(schema: Any, path: str, image_column: str = "", caption_columns: Sequence[str] = ()) -> Layout:
    """Which columns of an Arrow `schema` are what. Raises `DataError` that names `path` and lists the columns there are."""
    types = {field.name: field.type for field in schema}
    if len(types) < len(schema):
        raise DataError(f"{path} has two columns of one name")
    there = f"its columns are {', '.join(sorted(types)[:20])}"
    pictures = {name.lower(): name for name, kind in types.items() if _holds_pictures(kind)}
    named = [pictures[name] for name in IMAGE_NAMES if name in pictures]
    image = image_column or (named[0] if named else next(iter(pictures.values()), "") if len(pictures) == 1 else "")
    if image not in types or not _holds_pictures(types[image]):
        what = f"no column {image!r} of pictures" if image else f"{'several' if pictures else 'no'} columns of pictures"
        raise DataError(f"{path} has {what}, {there}: say which one with --set image_column=NAME")
    texts = {name.lower(): name for name, kind in types.items() if _holds_text(kind)}
    captions = tuple(caption_columns) or tuple(texts[name] for name in CAPTION_NAMES if name in texts)
    missing = [name for name in captions if name not in types or not _holds_text(types[name])]
    if missing or not captions:
        what = f"no column {missing[0]!r} of text" if missing else "no column with a name that captions have"
        raise DataError(f"{path} has {what}, {there}: say which ones with --set caption_columns=['NAME']")
    facts = [texts[name] for name in (*URL_NAMES, *LICENSE_NAMES, *AUTHOR_NAMES) if name in texts]
    numbers = [name for name, kind in types.items() if _holds_numbers(kind)][:MAX_SCORES]
    return Layout(
        image=image,
        image_bytes=f"{image}.bytes" if _pyarrow().types.is_struct(types[image]) else image,
        captions=captions,
        others=tuple(name for name in (*facts, *numbers) if name not in captions),
    )


def _row(batch: Any, index: int, layout: Layout, name: str) -> Raw | Refused:
    image = batch.column(layout.image)[index].as_py()
    if isinstance(image, dict):
        image = image.get("bytes")
    if not isinstance(image, bytes) or not image:
        return Refused(name, Reason.UNREADABLE, "the file has no bytes for it")
    if len(image) > MAX_IMAGE_BYTES:
        return Refused(name, Reason.TOO_LARGE, f"{len(image)} bytes, over the limit of {MAX_IMAGE_BYTES}")
    try:
        record = {column: batch.column(column)[index].as_py() for column in (*layout.captions, *layout.others)}
    except UnicodeDecodeError:
        return Refused(name, Reason.UNREADABLE, "its text is not UTF-8")
    if sum(len(value) for value in record.values() if isinstance(value, str)) > MAX_TEXT_BYTES:
        return Refused(name, Reason.TOO_LARGE, f"its text has over {MAX_TEXT_BYTES} characters")
    facts = read_facts(record, caption_names=[column.lower() for column in layout.captions])
    return Raw(
        name=name,
        image=image,
        captions=facts.captions,
        source=facts.url,
        license=facts.license,
        author=facts.author,
        url=facts.url,
        scores=facts.scores,
    )


def _find(folder: Path) -> tuple[str, ...]:
    found = tuple(sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet") if path.is_file()))
    if not found:
        raise DataError(f"there is no .parquet in {folder}")
    return found


def _pyarrow() -> Any:
    try:
        import pyarrow  # noqa: PLC0415 -- an extra
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError:
        raise DataError("pyarrow is missing: pip install 'diffusion-at-home[parquet]'") from None
    return pyarrow


def _open(path: Path) -> Any:
    """Read in small pieces, not by column chunk."""
    arrow = _pyarrow()
    try:
        return arrow.parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False)
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} is no parquet file, or is damaged ({_sentence(error)})") from None


def _sentence(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200].rstrip(".")


def _batch_rows(group: Any) -> int:
    bytes_a_row = max(1, group.total_byte_size // max(1, group.num_rows))
    return int(min(max(_BATCH_BYTES // bytes_a_row, 1), _MAX_BATCH_ROWS))


def _holds_pictures(kind: Any) -> bool:
    types = _pyarrow().types
    if types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _holds_pictures(kind.field(at).type)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _holds_text(kind: Any) -> bool:
    types = _pyarrow().types
    if types.is_list(kind) or types.is_large_list(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _holds_numbers(kind: Any) -> bool:
    types = _pyarrow().types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))
