"""What each worker has shown: whether it is a newcomer, whether it gets leases, what it has yet to be told.

In the ledger are the verdicts; this is what they come to, in memory. A worker whose contributions do not count, several in a row,
gets no leases for some rounds, and for more each time: a broken card should not train, and a liar should not learn quickly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from coordinator.records import Fault, Record, Verdict
from diffusion_at_home.config.trust import ScreeningSection
from diffusion_at_home.identity import WorkerId

_UNKNOWN: Final = Record(counted=0, faults_in_a_row=0, last_fault_round=0)
_FIRST_PAUSE_ROUNDS: Final = 10
_LONGEST_PAUSE_ROUNDS: Final = 1000
_MOST_UNTOLD: Final = 100
"""Of one worker: one that never asks again must not fill the memory."""


class Standing:
    """Of all workers."""

    def __init__(
        self,
        section: ScreeningSection,
        records: Mapping[WorkerId, Record],
        is_banned: Callable[[WorkerId], bool] = lambda _: False,
    ) -> None:
        self.is_banned = is_banned
        self._section = section
        self._records = dict(records)
        self._untold: defaultdict[WorkerId, list[Verdict]] = defaultdict(list)

    def is_newcomer(self, worker: WorkerId) -> bool:
        """Whether little of what it gave has counted yet."""
        return self._of(worker).counted < self._section.newcomer_leases

    def rounds_left(self, worker: WorkerId, round_number: int) -> int:
        """How many rounds from `round_number` on it gets no leases."""
        record = self._of(worker)
        pause = pause_rounds(record, self._section.warnings)
        return max(0, record.last_fault_round + pause + 1 - round_number) if pause else 0

    def learn(self, verdicts: Iterable[Verdict]) -> None:
        """What the ledger has just stored."""
        for verdict in verdicts:
            worker, record = verdict.worker_id, self._of(verdict.worker_id)
            if verdict.fault is Fault.NONE:
                self._records[worker] = replace(record, counted=record.counted + 1, faults_in_a_row=0)
                continue
            self._records[worker] = replace(
                record, faults_in_a_row=record.faults_in_a_row + 1, last_fault_round=verdict.round_number
            )
            knows = verdict.fault in {
                Fault.NOT_FINITE,
                Fault.MISFIT,
                Fault.BANNED,
            }  # its call was refused, or all of them
            if not knows and len(self._untold[worker]) < _MOST_UNTOLD:
                self._untold[worker].append(verdict)

    def distrust(self, worker: WorkerId) -> None:
        """It is a newcomer again."""
        self._records[worker] = replace(self._of(worker), counted=0)

    def take_untold(self, worker: WorkerId) -> list[Verdict]:
        """What did not count of this worker's since it was last told."""
        return self._untold.pop(worker, [])

    def _of(self, worker: WorkerId) -> Record:
        return self._records.get(worker, _UNKNOWN)


def pause_rounds(record: Record, warnings: int) -> int:
    """Rounds without a lease after the last fault: none for the first few, then twice as many each time."""
    over = record.faults_in_a_row - warnings
    return 0 if over < 0 else min(_FIRST_PAUSE_ROUNDS << min(over, 16), _LONGEST_PAUSE_ROUNDS)
