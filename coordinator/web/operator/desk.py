"""The operator's pages: logging in, what can be done, doing it, logging out.

Nothing happens without a session and, for what changes anything, the token of that session's forms and a request that the
browser says came from these pages. Orders go through `coordinator.orders`, as those of the command line do.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from coordinator.login import LOGIN_PATH, redeem
from coordinator.orders import orders
from coordinator.run_folder import RunFolder
from coordinator.status import LiveStatus
from coordinator.storage_forecast import Storage
from coordinator.web.operator.acts import act
from coordinator.web.operator.entrance import Entrance
from coordinator.web.operator.forms import Refusal, check_origin, read_form
from coordinator.web.operator.sessions import Session
from coordinator.web.rendering import Renderer
from diffusion_at_home import events
from diffusion_at_home.errors import DahError

DESK_PATH: Final = "/operator"
_NEWEST: Final = 50
"""Actions that are shown."""

_log = events.logger("coordinator")


class Desk:
    """Of one run."""

    def __init__(
        self,
        *,
        folder: RunFolder,
        renderer: Renderer,
        live: Callable[[], LiveStatus],
        storage: Callable[[], Storage | None],
        entrance: Entrance,
    ) -> None:
        self._folder = folder
        self._renderer = renderer
        self._live = live
        self._storage = storage
        self._entrance = entrance

    def routes(self) -> Sequence[BaseRoute]:
        """For the application."""
        return [
            Route(DESK_PATH, self._answered(self._show), methods=["GET"]),
            Route(LOGIN_PATH, self._answered(self._show_login), methods=["GET"]),
            Route(LOGIN_PATH, self._answered(self._log_in), methods=["POST"]),
            Route(f"{DESK_PATH}/act", self._answered(self._act), methods=["POST"]),
            Route(f"{DESK_PATH}/logout", self._answered(self._log_out), methods=["POST"]),
        ]

    # -- getting in and out -------------------------------------------------------------------------------------

    async def _show_login(self, request: Request) -> Response:  # noqa: ARG002
        return self._login_page("")

    async def _log_in(self, request: Request) -> Response:
        check_origin(request.headers, scheme=self._entrance.scheme)
        form = await read_form(request)
        self._entrance.count_try(request)
        if not await asyncio.to_thread(redeem, self._folder, form.get("code", "")):
            _log.warning("operator_login_refused", reason="wrong, old or used code")
            sentence = "This code is wrong, too old, or was used: make another with dah coordinator login."
            return self._login_page(sentence, 403)
        _log.info("operator_logged_in", by="page")
        response = _to_desk()
        self._entrance.let_in(response)
        return response

    async def _log_out(self, request: Request) -> Response:
        await self._read(request)
        response = RedirectResponse(LOGIN_PATH, status_code=303)
        self._entrance.let_out(request, response)
        return response

    # -- the page -----------------------------------------------------------------------------------------------

    async def _show(self, request: Request) -> Response:
        session = self._entrance.session(request)
        if session is None:
            return RedirectResponse(LOGIN_PATH, status_code=303)
        state = await asyncio.to_thread(self._state)
        live, storage = self._live(), self._storage()
        return self._renderer.page(
            "operator/templates/desk.html",
            here=DESK_PATH,
            token=session.form_token,
            said=session.take_said(),
            draining=state["draining"],
            banned=state["banned"],
            actions=list(reversed(state["actions"]))[:_NEWEST],
            workers=live.workers,
            problems=live.problems,
            round_number=live.round_number,
            version=state["version"],
            complete=live.complete,
            storage="" if storage is None else storage.sentence,
        )

    async def _act(self, request: Request) -> Response:
        session, form = await self._read(request)
        try:
            session.said = await asyncio.to_thread(self._order, form)
        except DahError as error:
            session.said = f"Nothing was done: {str(error).removeprefix('nothing was done: ')}."
        else:
            _log.info("operator_ordered", by="page", act=form["act"], said=session.said)
        return _to_desk()

    async def _read(self, request: Request) -> tuple[Session, dict[str, str]]:
        """The session and the form of a request that changes something. Raises `Refusal`."""
        check_origin(request.headers, scheme=self._entrance.scheme)
        session = self._entrance.session(request)
        if session is None:
            raise Refusal(403, "you are not logged in, or no longer: make a link with dah coordinator login")
        form = await read_form(request)
        if not hmac.compare_digest(form.get("token", "").encode(), session.form_token.encode()):
            raise Refusal(403, "the form is not one of this page: open it anew")
        return session, form

    # -- inside -------------------------------------------------------------------------------------------------

    def _order(self, form: dict[str, str]) -> str:
        with orders(self._folder) as given:
            return act(given, form)

    def _state(self) -> dict[str, Any]:
        with orders(self._folder, read_only=True) as given:
            return given.state()

    def _login_page(self, sentence: str, status: int = 200) -> Response:
        return self._renderer.page("operator/templates/login.html", status, here=LOGIN_PATH, sentence=sentence)

    def _answered(self, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """`endpoint` with its refusals as pages, and nothing of it kept by anybody."""

        async def answer(request: Request) -> Response:
            try:
                response = await endpoint(request)
            except Refusal as refusal:
                response = self._login_page(f"{str(refusal).capitalize()}.", refusal.status)
            response.headers["Cache-Control"] = "no-store"
            return response

        return answer


def _to_desk() -> RedirectResponse:
    return RedirectResponse(DESK_PATH, status_code=303)
