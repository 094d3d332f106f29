"""Carries out what the operator has told the ledger: `dah coordinator ban` and the like write there, whether or not this runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from coordinator.dispatcher import Dispatcher
from coordinator.enrolment import Enrolment
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.records import Action, ActionKind
from coordinator.registry import Registry
from coordinator.rounds import Rounds
from coordinator.standing_orders import after, draining, pending_publication
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
        heard: Sequence[Action],
    ) -> None:
        """`heard` are the actions that `enrolment` has heard of."""
        self._ledger = ledger
        self._enrolment = enrolment
        self._registry = registry
        self._dispatcher = dispatcher
        self._rounds = rounds
        self.done = heard[-1].action_id if heard else 0
        """Number of the last action that was carried out."""
        self.draining = draining(heard)
        """The order by which no leases are granted; None while they are."""

    async def take_up(self) -> None:
        """What held when the last process ended; before anybody may call."""
        if self.draining is not None:
            await self._dispatcher.drain(draining=True, note=self.draining.note)

    async def run(self) -> None:
        """Look again and again."""
        if (order := await self._ledger.run(Ledger.pending_rollback)) is not None:
            self._rounds.go_back(order)  # given while no coordinator ran, or by one that died
        actions, exported = await self._ledger.run(Ledger.actions), await self._ledger.run(Ledger.exported)
        if (publication := pending_publication(actions, exported)) is not None and publication.action_id <= self.done:
            self._rounds.publish_checkpoint(publication)
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
            case ActionKind.DISTRUST:
                self._registry.standing.distrust(WorkerId(action.subject))
            case ActionKind.ROLLBACK:
                self._rounds.go_back(action)
            case ActionKind.REVOKE:
                self._registry.revoke(WorkerId(action.subject))
            case ActionKind.DRAIN | ActionKind.RESUME:
                self.draining = after(self.draining, action)
                note = self.draining.note if self.draining else ""
                await self._dispatcher.drain(draining=self.draining is not None, note=note)
            case ActionKind.PUBLISH:
                self._rounds.publish_checkpoint(action)
            case _:
                pass  # it is enough that it was heard
