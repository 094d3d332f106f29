"""What fault a process is to suffer, and the record of the points that it passed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path


class Action(StrEnum):
    """What happens at a point."""

    KILL = "kill"
    """kill -9 by the process itself: nothing runs after it."""
    STOP = "stop"
    """SIGSTOP by the process itself, until somebody sends it SIGCONT."""


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """At most one fault, addressed by process, round and stage; which process is said by whom it is given to."""

    record: Path
    """Where a line is added for each point passed."""
    point: str | None = None
    """A name of `POINTS`; None passes them all."""
    round: int = 0
    """The first round that counts. A process learns of rounds from its own log."""
    nth: int = 1
    """Which passing of the point it is, of those that count."""
    action: Action = Action.KILL
    armed: Path | None = None
    """A file without which nothing counts, so that a process can first be left alone; None needs none."""

    def to_json(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> FaultPlan:
        """What `to_json` wrote."""
        fields = json.loads(text)
        armed = Path(fields["armed"]) if fields["armed"] else None
        return cls(**{**fields, "record": Path(fields["record"]), "action": Action(fields["action"]), "armed": armed})


@dataclass(frozen=True, slots=True)
class Passed:
    """A line of the record."""

    pid: int
    point: str
    round: int
    at: float
    """Of the machine's monotonic clock (seconds)."""
    cpu_seconds: float
    """That the process has computed."""

    def to_line(self) -> bytes:
        """One line, written at once, so that a process that dies next has written all of it."""
        return json.dumps(asdict(self)).encode() + b"\n"


def passed(record: Path) -> Sequence[Passed]:
    """All that was recorded so far, oldest first."""
    return [Passed(**json.loads(line)) for line in record.read_text().splitlines()] if record.is_file() else []
