"""What questions were answered with: by the doctors of a worker's machine and of a coordinator's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from diffusion_at_home.errors import DahError


class State(StrEnum):
    """How bad it is."""

    FINE = "fine"
    WARNING = "warning"
    """It works, but not as well as it could."""
    PROBLEM = "problem"
    """It does not work until this is put right."""
    SKIPPED = "skipped"
    """Nothing was found out, and `Check.found` says why."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the answer."""

    name: str
    """Stable, for scripts; several cards have one line each under one name."""
    state: State
    found: str
    """What is so."""
    advice: str = ""
    """What to do; empty where there is nothing to do."""
    kind: type[DahError] = DahError
    """What a command would raise that meets this problem: its exit code is the answer's."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The lines, in the order in which a person reads them."""

    checks: tuple[Check, ...]

    @property
    def fit(self) -> bool:
        """Whether there is no problem."""
        return all(check.state is not State.PROBLEM for check in self.checks)

    @property
    def exit_code(self) -> int:
        """0, or that of the first problem's kind."""
        return next((check.kind.exit_code for check in self.checks if check.state is State.PROBLEM), 0)

    def plain(self) -> Mapping[str, Any]:
        """The same as plain data."""
        lines = [
            {"name": check.name, "state": check.state.value, "found": check.found, "advice": check.advice}
            for check in self.checks
        ]
        return {"checks": lines, "fit": self.fit}


def fine(name: str, found: str, advice: str = "") -> Check:
    """Nothing is wrong."""
    return Check(name, State.FINE, found, advice)


def warning(name: str, found: str, advice: str) -> Check:
    """It will do."""
    return Check(name, State.WARNING, found, advice)


def problem(name: str, found: str, advice: str, kind: type[DahError]) -> Check:
    """It will not do."""
    return Check(name, State.PROBLEM, found, advice, kind)


def skipped(name: str, reason: str) -> Check:
    """Nobody looked."""
    return Check(name, State.SKIPPED, reason)


def failed(name: str, error: DahError, otherwise: str) -> Check:
    """`error` as a problem; `otherwise` is the advice if its sentence has none."""
    found, advice = parted(error)
    return problem(name, found, advice or otherwise, type(error))


def parted(error: DahError) -> tuple[str, str]:
    """What is so and what to do about it, as the sentences of this project are built; the latter may be empty."""
    found, colon, advice = str(error).rpartition(": ")  # a reason in brackets may have a colon too
    return (found, advice) if colon else (advice, "")


def checked(name: str, look: Callable[[], Check], otherwise: str, kind: type[DahError]) -> Check:
    """What `look` finds, or what keeps it from looking; of that, the system's own errors are of `kind`."""
    try:
        return look()
    except DahError as error:
        return failed(name, error, otherwise)
    except OSError as error:
        return problem(name, str(error), otherwise, kind)
