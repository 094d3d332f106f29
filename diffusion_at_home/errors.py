"""Every failure a person or the other side can meet, sorted by what it means for the process.

    DahError
    |-- RetryCall              the same call may succeed later
    |   |-- Unreachable        nobody answers at that address
    |   `-- Busy               the coordinator says when to come back
    |-- LeaseLost              give up this lease, ask for another
    |-- SessionLost            the session is unknown: join again
    |-- RunChanged             what was known of the run holds no longer: open it anew
    |-- LeaveRun               this run is over for us; do not come back unasked
    |   |-- VersionMismatch    the two sides speak different protocol versions
    |   |-- NotAdmitted        the coordinator does not want this worker
    |   `-- ShutOut            the run's operator does not let this worker in, or no longer
    |-- Disagreement           an audit is over, and something in it is not what its lease gives
    `-- StopProcess            nothing to retry: say why in one sentence and exit
        |-- ConfigError        a setting is wrong
        |-- DataError          a data set or shard is missing, corrupt or lies
        |-- IntegrityError     bytes do not match their digest
        |-- SignatureError     bytes are not signed, or not by whom they must be
        |-- StorageError       the disk is full or not writable
        |-- PortInUse          another process listens there
        |-- NotRunning         no worker runs that could be told anything
        |-- SeatLost           another process may be the run's coordinator by now
        `-- HardwareError      this machine cannot run what was asked

A message is one sentence for a person; it names the field, file or address and what to do. `exit_code` is what the
command line returns: one for each consequence, so that a script or a service manager can tell them apart. 1 is a fault
of the program, 2 a wrong command line.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import ClassVar


class DahError(Exception):
    """Base of everything that is raised on purpose."""

    exit_code: ClassVar[int] = 1


class RetryCall(DahError):
    """The call failed for now; the same call may succeed later."""

    exit_code: ClassVar[int] = 5


class Unreachable(RetryCall):
    """Nobody answers at that address."""


class Busy(RetryCall):
    """The coordinator is there but asks to come back after `retry_after`."""

    def __init__(self, message: str, retry_after: timedelta) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LeaseLost(DahError):
    """This lease is gone or its contribution was refused; `reason` is the refusal's stable name."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class SessionLost(DahError):
    """The coordinator does not know this session; joining again gives a new one."""

    exit_code: ClassVar[int] = 7


class RunChanged(DahError):
    """What the worker knows of the run holds no longer; opening it anew may mend that."""

    exit_code: ClassVar[int] = 7


class LeaveRun(DahError):
    """This run is over for this worker."""

    exit_code: ClassVar[int] = 7


class VersionMismatch(LeaveRun):
    """The two sides speak different protocol versions."""

    exit_code: ClassVar[int] = 6


class NotAdmitted(LeaveRun):
    """The coordinator refuses this worker."""


class ShutOut(LeaveRun):
    """The run's operator does not let this worker in, or no longer."""


class Disagreement(DahError):
    """An audit found contributions that are not what their leases give."""

    exit_code: ClassVar[int] = 13


class StopProcess(DahError):
    """Nothing to retry: the process says why in one sentence and exits."""


class ConfigError(StopProcess):
    """A setting is missing, misspelt or contradicts another."""

    exit_code: ClassVar[int] = 3


class DataError(StopProcess):
    """A data set, manifest or shard is missing, corrupt or not what it says."""

    exit_code: ClassVar[int] = 4


class HardwareError(StopProcess):
    """This machine cannot run what was asked of it."""

    exit_code: ClassVar[int] = 8


class StorageError(StopProcess):
    """The disk is full or a folder is not writable."""

    exit_code: ClassVar[int] = 9


class PortInUse(StopProcess):
    """Another process already listens on that port."""

    exit_code: ClassVar[int] = 10


class NotRunning(StopProcess):
    """No worker runs that could be told anything."""

    exit_code: ClassVar[int] = 14


class SeatLost(StopProcess):
    """This process is the run's coordinator no longer: what it wrote last may be stored or not, which the next one finds out."""

    exit_code: ClassVar[int] = 15


class IntegrityError(StopProcess):
    """Bytes do not match the digest they were published under."""

    exit_code: ClassVar[int] = 11


class SignatureError(StopProcess):
    """Bytes are not signed, or not by whom they must be."""

    exit_code: ClassVar[int] = 12


_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PLACE_ERRORS = {errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about writing below `path` into one `StorageError` sentence."""
    try:
        yield
    except PermissionError as error:
        raise StorageError(
            f"{path} is not writable ({error.strerror}): change its owner or choose another folder"
        ) from error
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            remedy = "free some space and start again"
        elif error.errno in _PLACE_ERRORS:
            remedy = "choose another place"
        else:
            raise
        raise StorageError(f"cannot write below {path} ({error.strerror}): {remedy}") from error
