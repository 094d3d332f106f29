"""A `metadata.jsonl` beside pictures, as Hugging Face's ImageFolder has it: one JSON object a line.

`file_name` is relative to the metadata's folder; what the other names mean, `columns.py` says. Memory: a name and an
offset for each line, whatever their texts.
"""

from __future__ import annotations

import json
import posixpath
from pathlib import Path
from typing import Any, Final

from diffusion_at_home.errors import DataError, IntegrityError

METADATA_NAME: Final = "metadata.jsonl"

_MAX_LINE_BYTES: Final = 2**20


class Metadata:
    """The lines of one file, found by `file_name`; of a file that is not there, none."""

    def __init__(self, path: Path) -> None:
        """Read it once. Raises `DataError` that names the line which is no object with a `file_name`."""
        self._path = path
        self._offsets = dict[str, int]()
        try:
            with path.open("rb") as file:
                offset = 0
                for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES), b""), start=1):
                    if line.strip():
                        self._offsets[_file_name(path, number, line)] = offset
                    offset += len(line)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror})") from None

    def get(self, file_name: str) -> dict[str, Any] | None:
        """The line of `file_name`, if there is one. Raises `IntegrityError` if the file has changed."""
        offset = self._offsets.get(file_name)
        if offset is None:
            return None
        try:
            with self._path.open("rb") as file:
                file.seek(offset)
                line = json.loads(file.readline(_MAX_LINE_BYTES))
        except (OSError, ValueError):
            line = None
        if not isinstance(line, dict):
            raise IntegrityError(f"{self._path} has changed while it was read: leave it alone and build again")
        return line


def _file_name(path: Path, number: int, line: bytes) -> str:
    try:
        found = json.loads(line)["file_name"]
    except (ValueError, TypeError, KeyError, RecursionError):
        found = None
    if not isinstance(found, str):
        raise DataError(f"{path}: line {number} is not a JSON object with a file_name: mend or remove it")
    return posixpath.normpath(found)
