"""A thread beside the main one that cannot die unnoticed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from diffusion_at_home.errors import DahError
from worker.stop import Interrupted


class Background:
    """Runs `body` on a thread from entering to leaving a `with` block, which raises what the thread died of.

    `body` returns, or raises `Interrupted`, soon after the event it is given is set. If it dies of anything else,
    `on_death` tells the main thread to leave the block.
    """

    def __init__(self, name: str, body: Callable[[threading.Event], None], on_death: Callable[[], None]) -> None:
        self._name = name
        self._body = body
        self._on_death = on_death
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._supervise, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if isinstance(self._failure, DahError):
            raise self._failure
        if self._failure is not None:
            raise RuntimeError(f"the {self._name} thread died") from self._failure

    def _supervise(self) -> None:
        try:
            self._body(self._ended)
        except Interrupted:
            pass
        except BaseException as failure:  # noqa: BLE001 -- a background task's supervisor
            self._failure = failure
            self._on_death()
