"""What is wrong with the run now, by name and since when: set and cleared by whoever sees it, shown to whoever asks.

A problem is present, not past: what has healed is in the log. May be used from any thread.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from coordinator.records import now_ms
from diffusion_at_home import events
from diffusion_at_home.errors import StorageError

STORAGE_FULL: Final = "storage_full"
"""Something was refused, or waits, because the disk does not take it."""

STORAGE_SOON: Final = "storage_soon"
"""The disk will not take it for long any more."""

QUOTA_EXCEEDED: Final = "quota_exceeded"
"""What must be kept is more than storage.quota_gib."""

JUDGING_FAILED: Final = "judging_failed"
"""A checkpoint could not be judged; training goes on."""

DAMAGED: Final = "damaged"
"""A file is not what it was, or is missing."""

SIGNATURE_REFUSED: Final = "signature_refused"
"""A checkpoint's signature, or the run's rotations, is not what it should be."""

GATE: Final = "gate"
"""The run goes back, or cannot: the operator has to look."""

ALERTS_FAILED: Final = "alerts_failed"
"""The operator's webhook cannot be told anything."""

BUCKET: Final = "bucket"
"""The object store does not answer, or refuses: bytes come from the coordinator alone."""

_KINDS: Final = (
    STORAGE_FULL,
    STORAGE_SOON,
    QUOTA_EXCEEDED,
    JUDGING_FAILED,
    GATE,
    ALERTS_FAILED,
    BUCKET,
    DAMAGED,
    SIGNATURE_REFUSED,
)

_log = events.logger("coordinator")


@dataclass(frozen=True, slots=True)
class Problem:
    """One that is present."""

    name: str
    """Stable, for machines: `storage_full`, `storage_soon`, `quota_exceeded`, `judging_failed`, `gate`,
    `alerts_failed`, `bucket`, `damaged:<file>`, `signature_refused:<checkpoint or rotations.json>`."""
    sentence: str
    """For people: what is wrong, and what to do."""
    since_ms: int
    """Milliseconds since 1970."""

    @property
    def kind(self) -> str:
        """The name without what it is about."""
        return self.name.partition(":")[0]


def damaged(name: str) -> str:
    """The name of the problem that the file or checkpoint `name` is not what it was."""
    return f"{DAMAGED}:{name}"


def signature_refused(name: str) -> str:
    """The name of the problem that the signature of checkpoint `name`, or the file of rotations, is not served."""
    return f"{SIGNATURE_REFUSED}:{name}"


class Problems:
    """Those that are present."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._present: dict[str, Problem] = {}
        self._unwritten: dict[str, set[str]] = {}

    def set(self, name: str, sentence: str) -> None:
        """`name` is there, as `sentence` says; if it was before, since then."""
        with self._lock:
            before = self._present.get(name)
            self._present[name] = Problem(name, sentence, before.since_ms if before else now_ms())
        if before is None:
            _log.error("problem_found", problem=name, sentence=sentence)

    def clear(self, name: str) -> None:
        """`name` is not, or no longer, there."""
        with self._lock:
            gone = self._present.pop(name, None)
        if gone is not None:
            _log.info("problem_gone", problem=name, seconds=(now_ms() - gone.since_ms) / 1000)

    def present(self) -> tuple[Problem, ...]:
        """All, the oldest first."""
        with self._lock:
            return tuple(sorted(self._present.values(), key=lambda problem: (problem.since_ms, problem.name)))

    def counts(self) -> dict[str, int]:
        """How many of each kind there are; a kind that was there once stays, with 0."""
        known = dict.fromkeys(_KINDS, 0)
        return known | Counter(problem.kind for problem in self.present())

    # -- a disk that does not take what is written ---------------------------------------------------------------

    def not_written(self, what: str, error: StorageError, part: str = "") -> None:
        """A write of `what` has failed: the disk is full until `part` of it is written."""
        with self._lock:
            self._unwritten.setdefault(what, set()).add(part)
        self.set(STORAGE_FULL, str(error))

    def written(self, what: str, part: str = "") -> None:
        """A write has succeeded."""
        if not self._unwritten:  # the usual case: it must be cheap
            return
        with self._lock:
            if part in self._unwritten.get(what, ()):
                del self._unwritten[what]
            full = bool(self._unwritten)
        if not full:
            self.clear(STORAGE_FULL)

    @contextmanager
    def writing(self, what: str, part: str = "") -> Iterator[None]:
        """Within, something is written: note whether the disk took it."""
        try:
            yield
        except StorageError as error:
            self.not_written(what, error, part)
            raise
        self.written(what, part)
