"""The gate: when held-out loss breaks, the run goes back to the last version that was good, without waiting for its operator.

It sees what the exporter evaluates (`evaluation.every_images`), of the raw weights, of versions that were not undone. A model
that is taught normally gets better, or a little worse now and then; one that was ruined is worse at a glance.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.operator import Operator
from coordinator.problems import GATE, Problems
from coordinator.records import Action, ActionKind, Evaluation, Weights, now_ms
from coordinator.standing_orders import BY_THE_GATE
from coordinator.versions import Versions
from diffusion_at_home import events
from diffusion_at_home.config.trust import GateSection
from diffusion_at_home.errors import StorageError

_RECENT: Final = 3
"""Evaluations whose median is what a new one is compared with: one that was lucky is no measure."""

_MANY: Final = 3
"""Times back to the same version, from which on the operator is told that something does not pass by itself."""

_RETRY_SECONDS: Final = 30.0

_log = events.logger("coordinator")


@dataclass(frozen=True, slots=True)
class Broken:
    """What the gate found."""

    version: int
    loss: float
    before: float
    """What it was of late."""
    back_to: int


def judge(evaluations: Sequence[Evaluation], section: GateSection) -> Broken | None:
    """Whether the newest of `evaluations`, oldest first, is broken: not finite, or `most_rise` above the last ones."""
    raw = [evaluation for evaluation in evaluations if evaluation.weights is Weights.RAW]
    good = [evaluation for evaluation in raw[:-1] if math.isfinite(evaluation.mean)]
    if not good:
        return None  # nothing to go back to
    before, newest = statistics.median(evaluation.mean for evaluation in good[-_RECENT:]), raw[-1]
    if math.isfinite(newest.mean) and newest.mean <= before * (1 + section.most_rise):
        return None
    return Broken(newest.version, newest.mean, before, good[-1].version)


class Gate:
    """Of one run."""

    def __init__(
        self,
        *,
        section: GateSection,
        evaluated: asyncio.Event,
        versions: Versions,
        ledger: LedgerThread,
        operator: Operator,
        problems: Problems,
    ) -> None:
        """`evaluated` is set when there are new losses."""
        self._section = section
        self._evaluated = evaluated
        self._versions = versions
        self._ledger = ledger
        self._operator = operator
        self._problems = problems

    async def run(self) -> None:
        """Look at each evaluation."""
        while self._section.enabled:
            await self._evaluated.wait()
            self._evaluated.clear()
            try:
                await self.look()
            except StorageError as error:  # which the problems name already
                _log.error("storage_error", error=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
                self._evaluated.set()

    async def look(self) -> None:
        """Go back if the newest evaluation says so."""
        found = await self._ledger.run(Ledger.evaluations)
        broken = judge([e for e in found if not self._versions.is_undone(e.version)], self._section)
        if broken is None:
            return
        sentence = (
            f"held-out loss of version {broken.version} is {broken.loss:.4g}, after {broken.before:.4g}: "
            f"the run goes back to version {broken.back_to}"
        )
        _log.error("gate_closed", version=broken.version, loss=broken.loss, before=broken.before, to=broken.back_to)
        if why_not := self._versions.why_not_back(broken.back_to):
            self._problems.set(GATE, f"{sentence}, which it cannot, as {why_not}")
            return
        action = Action(0, ActionKind.ROLLBACK, str(broken.back_to), f"{BY_THE_GATE}{sentence}", now_ms())
        await self._ledger.run(Ledger.add_action, action)
        await self._operator.look()
        times = self._times_back_to(broken.back_to)
        if times >= _MANY:
            self._problems.set(
                GATE,
                f"{sentence}, and has gone there {times} times in a row: see who contributes, and ban "
                "(`dah coordinator ban`)",
            )

    def _times_back_to(self, version: int) -> int:
        """How often the run has come to where `version` is, this time included."""
        times = 1
        while (earlier := self._versions.history[version].back_to) is not None:
            version, times = earlier, times + 1
        return times
