"""How one gets in at the operator's page: from which addresses how often, by which cookie, and who is in."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from coordinator.callers import Addresses, RatePerCaller
from coordinator.refused import Refused
from coordinator.web.operator.forms import Refusal
from coordinator.web.operator.sessions import LASTS, Session, Sessions
from diffusion_at_home.clock import Clock

_TRIES: Final = 10
_IN: Final = timedelta(minutes=1)
_UNLIMITED: Final = "here"
"""Networks without limits have one allowance together: behind a proxy, that is everybody."""


class Entrance:
    """Of one run."""

    def __init__(self, *, secure: bool, addresses: Addresses, clock: Clock) -> None:
        """`secure` is whether browsers reach the run by https."""
        self._secure = secure
        self._addresses = addresses
        self._sessions = Sessions(clock)
        chance = random.Random()  # noqa: S311 -- no secret
        self._tries = RatePerCaller(_TRIES / _IN.total_seconds(), _TRIES, clock, chance)

    @property
    def scheme(self) -> str:
        """Of the page's address."""
        return "https" if self._secure else "http"

    @property
    def cookie(self) -> str:
        """Its name: with the prefix, a browser takes it from this very host by https alone."""
        return "__Host-dah-operator" if self._secure else "dah-operator"

    def count_try(self, request: Request) -> None:
        """One more code, right or wrong. Raises `Refusal` if that is too many."""
        caller = self._addresses.caller(request.client.host if request.client else "")
        try:
            self._tries.enter(_UNLIMITED if caller is None else caller, "too many tries to log in: wait a minute")
        except Refused as refused:
            raise Refusal(429, str(refused)) from None

    def let_in(self, response: Response) -> None:
        """Give the browser a session."""
        response.set_cookie(
            self.cookie,
            self._sessions.open(),
            max_age=int(LASTS.total_seconds()),
            path="/",
            secure=self._secure,
            httponly=True,
            samesite="strict",
        )

    def session(self, request: Request) -> Session | None:
        """Whose request it is; None of who is outside."""
        return self._sessions.find(request.cookies.get(self.cookie))

    def let_out(self, request: Request, response: Response) -> None:
        """End the session."""
        self._sessions.close(request.cookies.get(self.cookie, ""))
        response.delete_cookie(self.cookie, path="/", secure=self._secure, httponly=True, samesite="strict")
