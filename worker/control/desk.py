"""Does what is asked over the local socket."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from worker.control.messages import Reply, Request, Verb
from worker.control.permission import Permission
from worker.progress import Status


class Desk:
    """Where requests meet a running worker."""

    def __init__(
        self,
        permission: Permission,
        *,
        reload: Callable[[], None],
        status: Callable[[], Status],
        now: Callable[[], datetime],
    ) -> None:
        """`reload` reads the settings again, and raises `ConfigError`; `now` is the wall clock, aware."""
        self._permission = permission
        self._reload = reload
        self._status = status
        self._now = now

    def answer(self, request: Request) -> Reply:
        """Do it. Raises `DahError` if that is impossible; then nothing has changed."""
        match request.verb:
            case Verb.PAUSE:
                until = None if request.seconds is None else self._now() + timedelta(seconds=request.seconds)
                self._permission.pause(until, at_once=request.at_once)
            case Verb.RESUME:
                self._permission.resume()
            case Verb.FINISH:
                self._permission.finish()
            case Verb.STOP:
                self._permission.stop(at_once=request.at_once)
            case Verb.RELOAD:
                self._reload()
            case Verb.STATUS:
                pass
        status = self._status()
        return Reply(
            wish=self._permission.wish,
            paused_until=self._permission.paused_until,
            state=status.state,
            reason=status.reason,
            pid=status.pid,
        )
