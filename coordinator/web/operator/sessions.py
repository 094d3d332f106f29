"""Who is logged in: in memory alone, so that a restart logs everybody out; of each cookie there is only its hash."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from diffusion_at_home.clock import Clock

LASTS: Final = timedelta(hours=12)
_MOST: Final = 32
"""At once: who came in first is out."""

_MOST_CHARACTERS: Final = 128


@dataclass(slots=True)
class Session:
    """One browser."""

    form_token: str
    """Stands in each form, where no other site can read it."""
    ends_at: float
    """On a monotonic clock (seconds)."""
    said: str = field(default="")
    """What the last order came to; shown once."""

    def take_said(self) -> str:
        """It, once."""
        said, self.said = self.said, ""
        return said


class Sessions:
    """All of one coordinator."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: OrderedDict[str, Session] = OrderedDict()

    def open(self) -> str:
        """A new one; returns the token of its cookie, which is kept nowhere."""
        token = secrets.token_urlsafe(32)
        self._open[_hash(token)] = Session(secrets.token_urlsafe(32), self._clock.now() + LASTS.total_seconds())
        while len(self._open) > _MOST:
            self._open.popitem(last=False)
        return token

    def find(self, token: str | None) -> Session | None:
        """The session of a cookie; None if there is none, or its time is over."""
        if not token or len(token) > _MOST_CHARACTERS:
            return None
        found = self._open.get(_hash(token))
        if found is not None and self._clock.now() >= found.ends_at:
            self.close(token)
            return None
        return found

    def close(self, token: str) -> None:
        """Log it out."""
        self._open.pop(_hash(token), None)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
