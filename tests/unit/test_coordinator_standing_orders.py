"""What the operator's actions come to that hold until they are carried out or taken back."""

from __future__ import annotations

import pytest

from coordinator.records import Action, ActionKind, Checkpoint, Weights
from coordinator.standing_orders import draining, pending_publication, told

DRAIN, RESUME, PUBLISH, NOTE = ActionKind.DRAIN, ActionKind.RESUME, ActionKind.PUBLISH, ActionKind.NOTE


def actions(*kinds: ActionKind, subject: str = "") -> list[Action]:
    return [Action(number, kind, subject, f"note {number}", 1000 + number) for number, kind in enumerate(kinds, 1)]


def checkpoint(version: int) -> Checkpoint:
    return Checkpoint(f"tiny-{version}", version, 8 * version, Weights.RAW, 0.5, 1, "a" * 64, 1)


@pytest.mark.parametrize(
    ("kinds", "number"),
    [((), None), ((DRAIN,), 1), ((DRAIN, NOTE), 1), ((DRAIN, RESUME), None), ((DRAIN, RESUME, DRAIN), 3)],
)
def test_the_last_word_on_draining_holds(kinds: tuple[ActionKind, ...], number: int | None) -> None:
    holds = draining(actions(*kinds))
    assert (holds.action_id if holds else None) == number


def test_the_status_says_since_when_and_why() -> None:
    assert told(None) is None
    assert told(draining(actions(DRAIN))) == {"since_ms": 1001, "note": "note 1"}


@pytest.mark.parametrize(("exported", "pending"), [([], True), ([3], True), ([4], False), ([3, 5], False)])
def test_an_order_to_publish_is_done_once_its_version_or_a_later_one_is_out(exported: list[int], pending: bool) -> None:
    found = pending_publication(actions(PUBLISH, NOTE, subject="4"), [checkpoint(version) for version in exported])
    assert (found is not None) is pending


def test_without_an_order_nothing_is_published() -> None:
    assert pending_publication(actions(NOTE, DRAIN), []) is None
