"""Lets a process notice the points it passes, by what Python, SQLAlchemy and the log tell anybody who listens.

Installed in a process before it becomes `dah`. Python's audit events tell of file operations before they happen. What comes
after one, and what lies between two writes, is told by the profiler of the thread that does it, which is on only from that
operation to the next thing the thread does.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from tests.faults.plan import Action, FaultPlan, Passed
from tests.faults.points import POINTS, Event, File, Half, Operation, Point, Transaction, Who

STARTED: Final = "process started"
"""Recorded when the seams are installed: the interpreter is up, and nothing of ours is imported."""

_OPERATIONS: Final = {
    "os.rename": Operation.RENAME,
    "os.remove": Operation.REMOVE,
    "os.link": Operation.LINK,
    "sqlite3.connect": Operation.CONNECT,
}
_STATEMENT: Final = re.compile(r"\s*(INSERT|UPDATE|DELETE)\s+(?:INTO\s+|FROM\s+)?\"?(\w+)")


class Passing:
    """Records the points that this process passes, and does what the plan says at one of them."""

    def __init__(self, plan: FaultPlan) -> None:
        self._plan = plan
        self._record = os.open(plan.record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._round = 0
        self._left = plan.nth

    def enter(self, number: int) -> None:
        """Round `number` is under way."""
        self._round = number

    def at(self, name: str) -> None:
        """The process is at a point."""
        line = Passed(os.getpid(), name, self._round, time.monotonic(), time.process_time()).to_line()
        os.write(self._record, line)
        if name != self._plan.point or self._round < self._plan.round:
            return
        if self._plan.armed is not None and not self._plan.armed.exists():
            return
        self._left -= 1
        if self._left != 0:
            return
        match self._plan.action:
            case Action.KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            case Action.STOP:
                os.kill(os.getpid(), signal.SIGSTOP)


class _Thread(threading.local):
    """What one thread waits for."""

    def __init__(self) -> None:
        self.soon: list[Point] = []
        self.halves: list[tuple[re.Pattern[str], Point]] = []
        self.statements: list[str] = []
        self.committed: list[Point] = []


class Files:
    """Points at and within file operations."""

    def __init__(self, points: list[Point], passing: Passing) -> None:
        self._passing = passing
        self._thread = _Thread()
        self._files = [(_ending(p.seam.path), p, p.seam) for p in points if isinstance(p.seam, File)]
        self._halves = [(_ending(p.seam.path), p) for p in points if isinstance(p.seam, Half)]

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """See `sys.addaudithook`."""
        operation = _operation(event, arguments)
        if operation is None:
            return
        paths = list(_paths(arguments))
        watched = False
        for pattern, point, seam in self._files:
            if seam.operation is operation and any(pattern.search(path) for path in paths):
                if seam.after:
                    self._thread.soon.append(point)
                    watched = True
                else:
                    self._passing.at(point.name)
        if operation is Operation.WRITE:
            found = [(pattern, point) for pattern, point in self._halves if any(pattern.search(p) for p in paths)]
            self._thread.halves += found
            watched = watched or bool(found)
        if watched:
            sys.setprofile(self._profile)

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if frame.f_code.co_filename == __file__:
            return
        soon, self._thread.soon = self._thread.soon, []
        for point in soon:
            self._passing.at(point.name)
        if event == "c_return" and argument.__name__ == "write":
            file = argument.__self__
            name = str(getattr(file, "name", ""))
            for half in [half for half in self._thread.halves if half[0].search(name)]:
                self._thread.halves.remove(half)
                file.flush()
                self._passing.at(half[1].name)
        if not self._thread.halves:
            sys.setprofile(None)


class Transactions:
    """Points at commits; for a process that has a ledger."""

    def __init__(self, points: list[Point], passing: Passing) -> None:
        import sqlalchemy as sa  # noqa: PLC0415 -- a worker has none

        self._passing = passing
        self._thread = _Thread()
        self._points = [(re.compile(p.seam.statements), p, p.seam) for p in points if isinstance(p.seam, Transaction)]
        sa.event.listen(sa.Engine, "begin", self._begun)
        sa.event.listen(sa.Engine, "before_cursor_execute", self._executed)
        sa.event.listen(sa.Engine, "commit", self._commits)
        sa.event.listen(sa.pool.Pool, "checkin", self._done)

    def _begun(self, connection: Any) -> None:  # noqa: ARG002
        self._thread.statements = []

    def _executed(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:  # noqa: ARG002
        if found := _STATEMENT.match(statement):
            self._thread.statements.append(f"{found[1]} {found[2]}")

    def _commits(self, connection: Any) -> None:  # noqa: ARG002
        text = ";".join(self._thread.statements)
        for pattern, point, seam in self._points:
            if pattern.search(text):
                if seam.after:
                    self._thread.committed.append(point)
                else:
                    self._passing.at(point.name)

    def _done(self, connection: Any, record: Any) -> None:  # noqa: ARG002
        committed, self._thread.committed = self._thread.committed, []
        for point in committed:
            self._passing.at(point.name)


class Log:
    """Points at events, and the number of the round, which events tell."""

    def __init__(self, points: list[Point], passing: Passing) -> None:
        self._passing = passing
        self._points = {p.seam.name: p for p in points if isinstance(p.seam, Event)}
        self._make = logging.getLogRecordFactory()
        logging.setLogRecordFactory(self._made)

    def _made(self, *arguments: Any, **more: Any) -> logging.LogRecord:
        record = self._make(*arguments, **more)
        fields = record.msg
        if isinstance(fields, dict):
            if isinstance(number := fields.get("round"), int):
                self._passing.enter(number)
            if point := self._points.get(fields.get("event", "")):
                self._passing.at(point.name)
        return record


def install(plan: FaultPlan, who: Who) -> None:
    """From here on this process, which is to be a `who`, passes points; once."""
    passing, points = Passing(plan), [point for point in POINTS.values() if point.who is who]
    passing.at(STARTED)
    Log(points, passing)
    if who is Who.COORDINATOR:
        Transactions(points, passing)
    sys.addaudithook(Files(points, passing).audit)


def _operation(event: str, arguments: tuple[Any, ...]) -> Operation | None:
    if event == "open":
        writes = os.O_WRONLY | os.O_RDWR
        return Operation.WRITE if arguments[2] & writes else Operation.READ
    return _OPERATIONS.get(event)


def _paths(arguments: tuple[Any, ...]) -> Iterator[str]:
    for argument in arguments[:2]:
        if isinstance(argument, str | bytes | os.PathLike):
            yield os.fsdecode(argument)


def _ending(path: str) -> re.Pattern[str]:
    return re.compile(f"(^|/){path}(\\?|$)")  # SQLite's is a URI with a query
