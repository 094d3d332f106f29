"""What is new since the last look, and worth a message. Pure but for what it remembers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.alerts.alert import Alert, AlertKind
from coordinator.problems import ALERTS_FAILED, Problem
from coordinator.records import Action, ActionKind, Version
from coordinator.standing_orders import BY_THE_GATE


@dataclass(frozen=True, slots=True)
class Facts:
    """What one look sees."""

    problems: Sequence[Problem]
    versions: Sequence[Version] = ()
    """Published since the last look."""
    actions: Sequence[Action] = ()
    """Carried out since the last look."""
    complete: bool = False
    heard: bool = True
    """Whether a worker was, lately."""
    resting: bool = False
    """Nobody need be there: the run is drained."""


class News:
    """Of one run, from its first look on."""

    def __init__(self, *, complete: bool, silence_seconds: float, now: float) -> None:
        """`complete` is whether the run was when the coordinator started; `now` is of a monotonic clock (seconds)."""
        self._complete = complete
        self._silence_seconds = silence_seconds
        self._heard_at = now
        self._told_silent = False
        self._problems: dict[str, str] = {}

    def look(self, facts: Facts, now: float, at_ms: int) -> list[Alert]:
        """What is to be told; `at_ms` is the time in it."""
        return [
            *self._about_problems(facts.problems, at_ms),
            *self._about_going_back(facts, at_ms),
            *self._about_workers(facts, now, at_ms),
            *self._about_the_end(facts, at_ms),
        ]

    def _about_problems(self, problems: Sequence[Problem], at_ms: int) -> list[Alert]:
        now = {problem.name: problem.sentence for problem in problems if problem.name != ALERTS_FAILED}
        before, self._problems = self._problems, now
        return [
            *(
                Alert(f"problem:{name}", AlertKind.PROBLEM, f"{name}: {sentence}", at_ms)
                for name, sentence in now.items()
                if name not in before
            ),
            *(
                Alert(f"problem:{name}", AlertKind.PROBLEM_GONE, f"{name} is gone", at_ms)
                for name in before.keys() - now.keys()
            ),
        ]

    @staticmethod
    def _about_going_back(facts: Facts, at_ms: int) -> list[Alert]:
        return [
            *(
                Alert("gate", AlertKind.GATE, action.note.removeprefix(BY_THE_GATE), at_ms)
                for action in facts.actions
                if action.kind is ActionKind.ROLLBACK and action.note.startswith(BY_THE_GATE)
            ),
            *(
                Alert(
                    f"rollback:{version.version}",
                    AlertKind.ROLLBACK,
                    f"the run went back: version {version.version} is version {version.back_to} again",
                    at_ms,
                )
                for version in facts.versions
                if version.back_to is not None
            ),
        ]

    def _about_workers(self, facts: Facts, now: float, at_ms: int) -> list[Alert]:
        if facts.heard or facts.resting or facts.complete:
            self._heard_at = now
            if self._told_silent and facts.heard:
                self._told_silent = False
                return [Alert("workers", AlertKind.HEARD, "a worker is there again", at_ms)]
            return []
        if self._told_silent or not self._silence_seconds or now - self._heard_at < self._silence_seconds:
            return []
        self._told_silent = True
        minutes = self._silence_seconds / 60
        return [Alert("workers", AlertKind.SILENT, f"no worker was heard for {minutes:g} minutes", at_ms)]

    def _about_the_end(self, facts: Facts, at_ms: int) -> list[Alert]:
        before, self._complete = self._complete, facts.complete
        if before or not facts.complete:
            return []
        return [Alert("complete", AlertKind.COMPLETE, "the run is complete, and its last checkpoint is out", at_ms)]
