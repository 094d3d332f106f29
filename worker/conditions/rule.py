"""What all rules have in common: each looks at its own settings and at one sensor, and hinders or not."""

from __future__ import annotations

from typing import Protocol

from worker.conditions.hindrance import Hindrance
from worker.settings import WorkerSettings


class CannotTell(Exception):
    """The machine does not show what a setting asks about: one sentence that says what, and what to do."""


class Rule(Protocol):
    """One reason, or two of a kind, not to work."""

    def hindrance(self, settings: WorkerSettings) -> Hindrance | None:
        """Why not to work now. Cheap: asked about once a second.

        Raises `CannotTell`, or whatever its sensor raises; neither hinders.
        """
