"""What the operator's actions come to that hold until they are carried out or taken back. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from coordinator.records import Action, ActionKind, Checkpoint

BY_THE_GATE: Final = "by the gate: "
"""How the note of a rollback begins that the gate has ordered in the operator's stead."""


def draining(actions: Iterable[Action]) -> Action | None:
    """The order to drain that holds after `actions`, in the order of their numbers; None if leases are granted."""
    holds: Action | None = None
    for action in actions:
        holds = after(holds, action)
    return holds


def after(holds: Action | None, action: Action) -> Action | None:
    """The order to drain that holds once `action` was heard."""
    match action.kind:
        case ActionKind.DRAIN:
            return action
        case ActionKind.RESUME:
            return None
        case _:
            return holds


def told(drain: Action | None) -> dict[str, Any] | None:
    """The order to drain that holds, as the status shows it."""
    return None if drain is None else {"since_ms": drain.at_ms, "note": drain.note}


def pending_publication(actions: Sequence[Action], exported: Sequence[Checkpoint]) -> Action | None:
    """The newest order to publish if no checkpoint came of it: none was ever made of that version or a later one."""
    orders = [action for action in actions if action.kind is ActionKind.PUBLISH]
    newest = max((checkpoint.version for checkpoint in exported), default=0)
    return orders[-1] if orders and int(orders[-1].subject) > newest else None
