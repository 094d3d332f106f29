"""One tree by consequence, one exit code for each, and disk trouble told in one sentence."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from diffusion_at_home import errors
from diffusion_at_home.errors import (
    Busy,
    ConfigError,
    DahError,
    DataError,
    Disagreement,
    HardwareError,
    IntegrityError,
    LeaseLost,
    LeaveRun,
    NotAdmitted,
    PortInUse,
    RetryCall,
    SessionLost,
    SignatureError,
    StopProcess,
    StorageError,
    Unreachable,
    VersionMismatch,
    storage_errors,
)

CONSEQUENCES = (
    RetryCall,
    LeaveRun,
    VersionMismatch,
    Disagreement,
    ConfigError,
    DataError,
    HardwareError,
    StorageError,
    PortInUse,
    IntegrityError,
    SignatureError,
)


def tree(root: type[DahError]) -> Iterator[type[DahError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


def test_every_consequence_has_an_exit_code_of_its_own() -> None:
    codes = [error.exit_code for error in CONSEQUENCES]
    assert len(set(codes)) == len(codes)
    assert not set(codes) & {0, 1, 2}  # success, a fault of ours, a wrong command line
    assert all(code < 64 for code in codes)


def test_kinds_of_one_consequence_share_its_code() -> None:
    assert Unreachable.exit_code == Busy.exit_code == RetryCall.exit_code
    assert NotAdmitted.exit_code == SessionLost.exit_code == LeaveRun.exit_code


def test_the_docstring_draws_the_tree_that_there_is() -> None:
    assert errors.__doc__
    for error in tree(DahError):
        if error.__module__ == errors.__name__:
            assert f" {error.__name__} " in f"{errors.__doc__} ".replace("\n", " "), error


def test_what_stops_the_process_is_never_retried() -> None:
    assert not any(issubclass(error, RetryCall | LeaseLost | SessionLost) for error in tree(StopProcess))


def test_busy_says_when_to_come_back_and_a_lost_lease_says_why() -> None:
    assert Busy("later", timedelta(seconds=3)).retry_after == timedelta(seconds=3)
    assert LeaseLost("gone", "round_closed").reason == "round_closed"


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EFBIG, "free some space"),
        (errno.EROFS, "choose another place"),
        (errno.ENOTDIR, "choose another place"),
        (errno.EEXIST, "choose another place"),
        (errno.EACCES, "choose another folder"),
    ],
)
def test_disk_trouble_is_one_sentence_with_a_remedy(code: int, remedy: str) -> None:
    with pytest.raises(StorageError) as raised, storage_errors(Path("place")):
        raise OSError(code, os.strerror(code))
    assert "place" in str(raised.value)
    assert os.strerror(code) in str(raised.value)
    assert remedy in str(raised.value)


def test_other_errors_pass() -> None:
    for error in (
        ConnectionResetError(errno.ECONNRESET, "reset"),
        FileNotFoundError(errno.ENOENT, "no"),
        KeyError("x"),
    ):
        with pytest.raises(type(error)), storage_errors(Path("place")):
            raise error
