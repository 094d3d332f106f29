"""What the operator has done to the run, as far as it is everybody's business: an invitation's code, name and note are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from coordinator.page_queries import PageQueries
from coordinator.records import Action, ActionKind
from coordinator.web.paging import ROWS, Paging, paging
from coordinator.web.sources import Sources

_OF_INVITATIONS: Final = {ActionKind.INVITE, ActionKind.UNINVITE}
_OF_WORKERS: Final = {
    ActionKind.ALLOW,
    ActionKind.DISALLOW,
    ActionKind.BAN,
    ActionKind.UNBAN,
    ActionKind.REVOKE,
    ActionKind.DISTRUST,
}

KIND_WORDS: Final[dict[str, str]] = {
    "invite": "made an invitation",
    "uninvite": "took an invitation back",
    "allow": "put a worker on the list",
    "disallow": "took a worker off the list",
    "ban": "banned a worker",
    "unban": "let a worker in again",
    "revoke": "ended a worker's session, which joins again with its key",
    "distrust": "made a worker a newcomer again",
    "rollback": "went back to an older version",
    "drain": "let the run finish what was given out, and rest",
    "resume": "let the run go on",
    "publish": "ordered a checkpoint",
    "note": "noted",
}


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One deed."""

    number: int
    at_ms: int
    kind: str
    """A code: see `ActionKind`."""
    sentence: str
    worker_id: str
    """Whom it is about; empty if no worker."""
    version: int | None
    """Which it is about."""
    note: str
    """The operator's words; empty of invitations, where they may name people."""
    until_ms: int | None
    """Of a ban: when it ends."""


@dataclass(frozen=True, slots=True)
class LogView:
    """One page of them, the newest first."""

    paging: Paging
    entries: tuple[LogEntry, ...]


async def read_log(sources: Sources, page: str) -> LogView:
    """Page number `page`."""
    found = paging(page, await sources.ledger.run(PageQueries.num_actions))
    actions = await sources.ledger.run(PageQueries.latest_actions, ROWS, found.offset)
    return LogView(found, tuple(log_entry(action) for action in actions))


def log_entry(action: Action) -> LogEntry:
    """What everybody may know of it."""
    private = action.kind in _OF_INVITATIONS
    is_version = action.kind is ActionKind.ROLLBACK and action.subject.isdigit()
    return LogEntry(
        number=action.action_id,
        at_ms=action.at_ms,
        kind=action.kind.value,
        sentence=KIND_WORDS.get(action.kind.value, action.kind.value.replace("_", " ")),
        worker_id=action.subject if action.kind in _OF_WORKERS else "",
        version=int(action.subject) if is_version else None,
        note="" if private else action.note,
        until_ms=action.until_ms or None if action.kind is ActionKind.BAN else None,
    )
