"""Carries out what the operator has told the ledger: `dah coordinator ban` and the like write there, whether or not this runs."""

from __future__ import annotations

import asyncio
from typing import Final

from coordinator.dispatcher import Dispatcher
from coordinator.enrolment import Enrolment
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.records import Action, ActionKind
from coordinator.registry import Registry
from coordinator.rounds import Rounds
from diffusion_at_home import events
from diffusion_at_home.errors import StorageError
from diffusion_at_home.identity import WorkerId

_EVERY_SECONDS: Final = 1.0

_log = events.logger("coordinator")


class Operator:
    """Looks into the ledger for what is new."""

    def __init__(
        self,
        *,
        ledger: LedgerThread,
        enrolment: Enrolment,
        registry: Registry,
        dispatcher: Dispatcher,
        rounds: Rounds,
        done: int,
    ) -> None:
        """`done` is the number of the last action that `enrolment` has heard of."""
        self._ledger = ledger
        self._enrolment = enrolment
        self._registry = registry
        self._dispatcher = dispatcher
        self._rounds = rounds
        self.done = done
        """Number of the last action that was carried out."""

    async def run(self) -> None:
        """Look again and again."""
        if (order := await self._ledger.run(Ledger.pending_rollback)) is not None:
            self._rounds.go_back(order)  # given while no coordinator ran, or by one that died
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            try:
                await self.look()
            except StorageError as error:  # which the problems name already
                _log.error("storage_error", error=str(error))

    async def look(self) -> None:
        """Carry out what is new."""
        for action in await self._ledger.run(Ledger.actions, self.done):
            self._enrolment.hear(action)
            await self._carry_out(action)
            self.done = action.action_id
            _log.info("operator_acted", action=action.kind.value, subject=action.subject[:16], note=action.note)

    async def _carry_out(self, action: Action) -> None:
        match action.kind:
            case ActionKind.BAN | ActionKind.DISALLOW:
                await self._dispatcher.release_all(WorkerId(action.subject))
            case ActionKind.ROLLBACK:
                self._rounds.go_back(action)
            case ActionKind.REVOKE:
                self._registry.revoke(WorkerId(action.subject))
            case _:
                pass  # it is enough that it was heard
