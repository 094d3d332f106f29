"""A run's files in an object store, each under its sha256: the one place that knows the stores' library.

An object is written whole or not at all, and never changed: to write it again is the same. Whoever dies in the middle leaves
parts that nobody sees, which a rule of the bucket should delete after some days.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from coordinator.elsewhere.settings import SIGNING, Elsewhere
from diffusion_at_home.errors import ConfigError, Unreachable

URL_HOLDS: Final = timedelta(hours=1)
"""A signed URL: a download that takes longer asks the coordinator again."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_PART_BYTES: Final = 8 * 2**20
_CLIENT: Final = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(minutes=2)}
"""Of one request: a part on a line of 1 Mbit/s."""
_RETRIES: Final = {"max_retries": 2, "retry_timeout": timedelta(seconds=30)}


class Bucket:
    """Of one run. Every call waits for the store; may be used from any thread. All raise `Unreachable`."""

    def __init__(self, elsewhere: Elsewhere, run_id: str) -> None:
        """Raises `ConfigError` if the library is missing, or can make nothing of the settings."""
        self.url = f"{elsewhere.bucket}/{run_id}"
        self._stopping = threading.Event()
        self._signs = urlsplit(elsewhere.bucket).scheme in SIGNING
        try:
            import obstore  # noqa: PLC0415 -- an extra
            from obstore import exceptions, store  # noqa: PLC0415
        except ModuleNotFoundError:
            raise ConfigError("a bucket needs more: pip install 'diffusion-at-home[s3]'") from None
        self._library: Any = obstore
        self._base_error: type[Exception] = exceptions.BaseError
        try:
            self._store: Any = store.from_url(f"{self.url}/blobs", **_options(elsewhere))
        except (self._base_error, ValueError) as error:
            raise ConfigError(f"{elsewhere.bucket} cannot be opened: {_first_line(error)}") from None

    def put(self, sha256: str, path: Path) -> None:
        """Write the file `path` under that name. Raises `FileNotFoundError` if it is not there."""
        small = path.stat().st_size <= _PART_BYTES
        with self._told("write to"):
            self._library.put(
                self._store, sha256, path if small else self._pieces(path), chunk_size=_PART_BYTES, max_concurrency=4
            )

    def sizes(self) -> dict[str, int]:
        """All files that are there, with their size in bytes."""
        with self._told("list"):
            pages = self._library.list(self._store, chunk_size=1000)
            found = {entry["path"]: int(entry["size"]) for page in pages for entry in page}
        return {name: size for name, size in found.items() if _SHA256.fullmatch(name)}

    def delete(self, sha256: str) -> None:
        """Delete that file, if it is there."""
        assert _SHA256.fullmatch(sha256)
        with self._told("delete from"):
            try:
                self._library.delete(self._store, sha256)
            except FileNotFoundError:
                return

    def signed_url(self, sha256: str) -> str:
        """Where anybody may read that file for `URL_HOLDS`; empty if this kind of store has no such URLs."""
        if not self._signs:
            return ""
        with self._told("sign for"):
            return str(self._library.sign(self._store, "GET", sha256, URL_HOLDS))

    def close(self) -> None:
        """End what is being written: a large file takes hours on a slow line."""
        self._stopping.set()

    def _pieces(self, path: Path) -> Iterator[bytes]:
        with path.open("rb") as file:
            while piece := file.read(_PART_BYTES):
                if self._stopping.is_set():
                    raise InterruptedError("the coordinator stops")
                yield piece

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (self._base_error, OSError) as error:
            raise Unreachable(f"cannot {what} {self.url}: {_first_line(error)}") from None


def _options(elsewhere: Elsewhere) -> dict[str, Any]:
    scheme = urlsplit(elsewhere.bucket).scheme
    if scheme == "file":
        return {"mkdir": True}
    options: dict[str, Any] = {"client_options": dict(_CLIENT), "retry_config": _RETRIES}
    if scheme == "s3":  # not every store that speaks it knows how to delete many at once
        options["config"] = {"disable_bulk_delete": True}
    if elsewhere.endpoint:
        options["config"]["endpoint"] = elsewhere.endpoint
        options["client_options"]["allow_http"] = elsewhere.endpoint.startswith("http:")
    return options


def _first_line(error: Exception) -> str:
    """What matters of the library's many."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
