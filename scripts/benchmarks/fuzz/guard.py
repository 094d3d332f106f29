"""Calls a reader with what it must not trust, and sees what comes of it.

Within a `Guard` each call has a time limit, the process a limit on what it may allocate, and an audit hook (PEP 578) notes what
Python is asked to do meanwhile: run code, load a module, start a process, open a connection, write outside the scratch folder.
Libraries in other languages tell no hook of the files they write; so the folder that the scratch folder is in must be the same
afterwards.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any, Final

import psutil
from pydantic import ValidationError

CALL_SECONDS: Final = 5.0
_STUCK_SECONDS: Final = 60.0
"""After which the process ends with a traceback: the call does not come back to the interpreter."""

_SPARE_BYTES: Final = 2**30
"""That the process may allocate on top of what it has: more is a `MemoryError`, and so a crash."""

_FRAMES: Final = 12
"""Innermost ones of a traceback that are kept."""

_MOST_CHARACTERS: Final = 4_000
"""Of a refusal: what is refused may be in it, but not all of it."""

_CODE: Final = frozenset(
    {
        "compile",
        "ctypes.dlopen",
        "exec",
        "import",
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "os.system",
        "pickle.find_class",
        "pty.spawn",
        "socket.bind",
        "socket.connect",
        "socket.getaddrinfo",
        "socket.sendto",
        "subprocess.Popen",
    }
)
_PLACES: Final = {
    "os.chmod": 1,
    "os.chown": 1,
    "os.link": 2,
    "os.mkdir": 1,
    "os.remove": 1,
    "os.rename": 2,
    "os.rmdir": 1,
    "os.symlink": 2,
    "os.truncate": 1,
    "os.utime": 1,
    "shutil.rmtree": 1,
}
"""Events that change a file, and how many of their arguments are paths; a link's target counts, too."""

_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Outcome(StrEnum):
    """What came of one call."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    CRASHED = "crashed"
    HUNG = "hung"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One call."""

    outcome: Outcome
    trace: str = ""
    """Of one that crashed or hung."""
    code_run: tuple[str, ...] = ()
    """What it did besides reading, by the name of its audit event."""
    writes_outside: tuple[str, ...] = ()


class _TimeUp(BaseException):
    """The call has taken too long."""


@dataclass(slots=True)
class Guard:
    """Of one scratch folder, which must be alone in another folder. For the main thread."""

    scratch: Path
    seconds: float = CALL_SECONDS
    _watching: bool = False
    _code_run: list[str] = field(default_factory=list)
    _writes_outside: list[str] = field(default_factory=list)

    @contextmanager
    def up(self) -> Iterator[None]:
        """Within, calls may be made."""
        assert threading.current_thread() is threading.main_thread(), "a signal ends a call that hangs"
        before, timer = signal.signal(signal.SIGALRM, _time_is_up), signal.setitimer(signal.ITIMER_REAL, 0)
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + _SPARE_BYTES, hard))
        _hook(self)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what is wrong with a picture: they are many, and refuse nothing
                yield
        finally:
            _hook(None)
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
            signal.signal(signal.SIGALRM, before)
            signal.setitimer(signal.ITIMER_REAL, *timer)  # a test runner has one, too

    def call(self, read: Callable[[], object], refusals: tuple[type[Exception], ...]) -> Verdict:
        """What `read` comes to, which may raise `refusals` and nothing else."""
        self._code_run.clear()
        self._writes_outside.clear()
        outcome, trace = Outcome.ACCEPTED, ""
        fault: BaseException | None = None
        faulthandler.dump_traceback_later(_STUCK_SECONDS, exit=True, file=sys.__stderr__ or sys.stderr)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)
        self._watching = True
        try:
            read()
        except refusals as refusal:
            problem = _unprintable(refusal)
            outcome, trace = (Outcome.CRASHED, problem) if problem else (Outcome.REFUSED, "")
        except _TimeUp as error:
            outcome, fault = Outcome.HUNG, error
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 -- whatever it is: a panic of a library in Rust is no `Exception`
            outcome, fault = Outcome.CRASHED, error
        finally:
            self._watching = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()
        if fault is not None:  # not sooner: a traceback is drawn with the help of the compiler
            trace = "".join(traceback.format_exception(fault, limit=-_FRAMES))
        return Verdict(outcome, trace, tuple(self._code_run), tuple(self._writes_outside))

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Python is about to do something."""
        if not self._watching:
            return
        if event in _CODE:
            self._code_run.append(f"{event} {str(arguments[:1])[:200]}")
        elif event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITES:
                self._touch(event, path)
        elif event in _PLACES:
            for path in arguments[: _PLACES[event]]:
                self._touch(event, path)

    def _touch(self, event: str, path: Any) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            place = Path(os.path.realpath(os.fsdecode(path)))
            if not place.is_relative_to(self.scratch):
                self._writes_outside.append(f"{event} {place}")


_listening: list[Guard] = []
_hooked: list[bool] = []


def _hook(guard: Guard | None) -> None:
    """Tell `guard` of audit events from now on, or nobody: a hook cannot be taken away again."""
    _listening[:] = [] if guard is None else [guard]
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(_hear)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    for guard in _listening:
        guard.hear(event, arguments)


def _time_is_up(_signal: int, _frame: FrameType | None) -> None:
    raise _TimeUp


def _unprintable(refusal: Exception) -> str:
    """What keeps a refusal from being a sentence for a person; empty if nothing does."""
    sentence = str(refusal)
    try:
        sentence.encode()
    except UnicodeEncodeError:
        return f"a refusal that no terminal takes: {sentence!a}"
    if len(sentence) > _MOST_CHARACTERS and not isinstance(refusal, ValidationError):
        return f"a refusal of {len(sentence)} characters: {sentence[:200]!a}"
    return ""
