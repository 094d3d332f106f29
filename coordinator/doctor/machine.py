"""What can be told of the coordinator's machine: its disk, its clock, how many files it may open."""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress
from typing import Final

from coordinator.run_folder import RunFolder
from coordinator.storage_forecast import GIB, Storage
from diffusion_at_home.config.run import ServerSection
from diffusion_at_home.doctor import Check, fine, problem, skipped, warning
from diffusion_at_home.errors import StorageError

_LEAST_FREE_BYTES: Final = 256 * 2**20
"""A disk with less is full: a state, or the log, would not find room."""

_HTTP_CONNECTIONS: Final = 4096
_OWN_FILES: Final = 50
_FILES_A_WORKER: Final = 3
"""Its calls, its hand-ins, and what it has handed in while the round is summed: see docs/limits.md."""

_EXPECTED_WORKERS: Final = 1_000
"""Of a run that nobody has joined yet."""

_TIMEX_BYTES: Final = 512
"""More than any system's `struct timex`."""

_TIME_ERROR: Final = 5
"""What Linux's adjtimex(2) returns while nothing keeps the clock right."""

_BACKWARDS_MS: Final = 60_000


def check_disk(storage: Storage) -> Check:
    """Whether there is room for what will come."""
    found = _disk_words(storage)
    if storage.free_bytes < _LEAST_FREE_BYTES:
        return problem("disk", found, "free some space, or move the run to a larger disk", StorageError)
    if storage.warning:
        sentence, _, advice = storage.warning.partition(": ")
        return warning("disk", f"{found}; {sentence}", advice)
    if storage.needed_bytes is not None and storage.needed_bytes > storage.free_bytes:
        return warning(
            "disk", found, "it does not last until the end: set a quota (`dah coordinator run --quota-gib`) in time"
        )
    return fine("disk", found)


def _disk_words(storage: Storage) -> str:
    words = f"{storage.used_bytes / GIB:.2f} GiB used, {storage.free_bytes / GIB:.2f} GiB free"
    if storage.growth_bytes_per_day is None:
        return f"{words}; how fast it grows is not known yet"
    words += f", {storage.growth_bytes_per_day / GIB:.2f} GiB more a day"
    if storage.needed_bytes is not None:
        words += f", {storage.needed_bytes / GIB:.2f} GiB more until the end"
    return words if storage.days_to_full is None else f"{words}, full in {storage.days_to_full:.1f} days"


def check_quota(storage: Storage) -> Check:
    """When it is reached, and what goes first then."""
    if not storage.quota_bytes:
        return fine(
            "quota", "none: nothing is ever deleted", "to let old files go, `dah coordinator run --quota-gib GIB`"
        )
    found = f"{storage.used_bytes / GIB:.2f} of {storage.quota_bytes / GIB:.2f} GiB"
    if storage.days_to_quota is not None:
        found += f", reached in {storage.days_to_quota:.1f} days"
    return fine("quota", f"{found}; first to go: {storage.goes_first}")


def check_clock(*, synchronized: bool | None, now_ms: int, newest_ms: int) -> Check:
    """`synchronized` is None where nobody can tell; `newest_ms` is the latest time in the ledger."""
    advice = "switch on time synchronisation, as in timedatectl set-ntp true"
    if newest_ms - now_ms > _BACKWARDS_MS:
        hours = (newest_ms - now_ms) / 3_600_000
        return warning("clock", f"{hours:.1f} hours before what the ledger has already", advice)
    if synchronized is None:
        return skipped("clock", "this system does not say whether its clock is kept right")
    if not synchronized:
        return warning("clock", "nothing keeps it right", advice)
    return fine("clock", "synchronised")


def clock_is_synchronized() -> bool | None:
    """What the kernel says, whichever service keeps the clock; None where it does not tell."""
    if sys.platform != "linux":
        return None
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)  # all zero: change nothing
    try:
        state: int = ctypes.CDLL(None).adjtimex(buffer)
    except (AttributeError, OSError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def check_files(most: int, server: ServerSection, joined: int) -> Check:
    """Whether `most` files, open at once, are enough for `server` with all workers that ever joined."""
    workers = max(joined, min(_EXPECTED_WORKERS, server.max_waiting))
    needed = _HTTP_CONNECTIONS + server.max_downloads + _FILES_A_WORKER * workers + _OWN_FILES
    found = f"{most:,} may be open at once, {needed:,} are needed for {workers:,} workers"
    if most < needed:
        return warning("open_files", found, "raise the limit: LimitNOFILE=16384 of a service, or ulimit -Hn")
    return fine("open_files", found)


def most_files(folder: RunFolder) -> int:
    """What the coordinator that serves the run may open, else what one started from here might."""
    if folder.is_running():
        with suppress(OSError, ValueError):
            return _counted(resource.prlimit(int((folder.root / "lock").read_text()), resource.RLIMIT_NOFILE)[1])
    return _counted(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _counted(limit: int) -> int:
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
