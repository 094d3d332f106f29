"""What is told, and the JSON in which several chat services find it.

Slack and Mattermost show `text`, Discord `content` (at most 2,000 characters); each ignores what it does not know. ntfy shows
what its address asks for: `https://ntfy.sh/TOPIC?tpl=1&m={{.content}}` (ntfy 2.10 and later). Scripts read `alerts`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

_MOST_CHARACTERS: Final = 1900
"""Discord takes 2,000."""


class AlertKind(StrEnum):
    """What has happened."""

    PROBLEM = "problem"
    PROBLEM_GONE = "problem_gone"
    GATE = "gate"
    """Held-out loss has broken."""
    ROLLBACK = "rollback"
    SILENT = "silent"
    """No worker was heard for a while."""
    HEARD = "heard"
    """One was, after that."""
    COMPLETE = "complete"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing."""

    key: str
    """What it is about: of two that wait to be sent, the later one is sent."""
    kind: AlertKind
    sentence: str
    at_ms: int
    """Milliseconds since 1970."""


def message(run: str, address: str, alerts: Sequence[Alert], lost: int = 0) -> bytes:
    """The body that tells of `alerts`, the oldest first, of the run named `run` at `address`; `lost` were too many to keep."""
    lines = [f"{_mark(alert.kind)} {run}: {alert.sentence}" for alert in alerts]
    if lost:
        lines.insert(0, f"{run}: {lost} older messages were too many to keep")
    text = "\n".join(lines)
    if len(text) > _MOST_CHARACTERS:
        text = f"{text[:_MOST_CHARACTERS]}..."
    body = {
        "text": _for_slack(text),
        "content": text,
        "allowed_mentions": {"parse": []},  # Discord: whatever a name says, nobody is called
        "run": run,
        "address": address,
        "alerts": [
            {"kind": alert.kind.value, "about": alert.key, "sentence": alert.sentence, "at": _time(alert.at_ms)}
            for alert in alerts
        ],
    }
    return json.dumps(body, ensure_ascii=False).encode()


def _mark(kind: AlertKind) -> str:
    return "[ok]" if kind in {AlertKind.PROBLEM_GONE, AlertKind.HEARD, AlertKind.COMPLETE, AlertKind.TEST} else "[!]"


def _for_slack(text: str) -> str:
    """Without its links and calls (`<!channel>`): the three characters that Slack wants escaped."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")
