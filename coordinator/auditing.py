"""What the operator's own auditor recomputes, and what follows: `dah coordinator audit` asks here, and writes what it found.

Which contribution is recomputed is drawn after it was handed in, so a worker cannot tell it from any other. Of a worker that has
not yet agreed `audit.first` times in a row all are recomputed, then one in as many as have agreed since it last did not, down to
`audit.least_share`. One that disagrees makes its worker a newcomer again; `audit.strikes` of them in all, and it is banned. What
disagrees is nobody's credit from then on. When the run has gone back, all that made the versions that
it left behind is recomputed. So are both leases where two volunteers trained one and do not agree, or cannot be compared.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from coordinator.ledger import Ledger
from coordinator.records import Action, ActionKind, Audited, LeaseId, Opinion, now_ms
from diffusion_at_home import events
from diffusion_at_home.config.trust import AuditSection
from diffusion_at_home.identity import WorkerId

_MOST_WAITING: Final = 1_000
"""An auditor that is too slow for its fleet recomputes what is newest."""

_log = events.logger("coordinator")


@dataclass(slots=True)
class Conduct:
    """What recomputing has shown of a worker."""

    agreed_in_a_row: int = 0
    disagreed: int = 0
    """In all."""

    def learn(self, agrees: bool) -> None:
        """One more."""
        self.agreed_in_a_row = self.agreed_in_a_row + 1 if agrees else 0
        self.disagreed += not agrees


def share(conduct: Conduct, section: AuditSection) -> float:
    """Of a worker's contributions, how many are recomputed."""
    if conduct.agreed_in_a_row < section.first:
        return 1.0
    return max(section.least_share, 1 / (conduct.agreed_in_a_row + 1))


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A contribution that may be drawn."""

    lease_id: LeaseId
    worker: WorkerId
    suspect: bool = False
    """It is, for certain."""


@dataclass(slots=True)
class Docket:
    """Of one auditor process."""

    ledger: Ledger
    section: AuditSection
    chance: random.Random
    since: int = 0
    """Later contributions have not been looked at; drawn once each."""
    _conducts: dict[WorkerId, Conduct] = field(default_factory=dict)
    _waiting: deque[_Waiting] = field(default_factory=lambda: deque(maxlen=_MOST_WAITING))
    _seen: set[LeaseId] = field(default_factory=set)
    _rollback: int = 0
    """The last one that was looked at, by its version."""
    _opinion: int = 0
    """The last one that was looked at, by its lease."""

    def __post_init__(self) -> None:
        for audited in self.ledger.audits():
            self._of(audited.worker_id).learn(audited.agrees)
            self._seen.add(audited.lease_id)

    def next(self) -> LeaseId | None:
        """The next lease to recompute, of a closed round; None while there is none."""
        for contribution in self.ledger.closed_contributions(self.since):
            self.since = contribution.lease_id
            self._waiting.append(_Waiting(contribution.lease_id, contribution.worker_id))
        self._look_for_suspects()
        while self._waiting:
            one = self._waiting.popleft()
            conduct = self._of(one.worker)
            is_drawn = one.suspect or self.chance.random() < share(conduct, self.section)
            is_banned = conduct.disagreed >= self.section.strikes  # then nothing more is to be learnt
            if is_drawn and not is_banned and one.lease_id not in self._seen:
                self._seen.add(one.lease_id)
                return one.lease_id
        return None

    def found(self, audited: Audited, why: str) -> None:
        """Store what recomputing came to, and what follows for the worker; `why` is for people."""
        conduct = self._of(audited.worker_id)
        conduct.learn(audited.agrees)
        self.ledger.add_audit(audited)
        if audited.agrees:
            return
        banned = conduct.disagreed >= self.section.strikes
        kind = ActionKind.BAN if banned else ActionKind.DISTRUST
        note = f"by the auditor: lease {audited.lease_id} was not what it should have come to ({why})"
        self.ledger.add_action(Action(0, kind, audited.worker_id, note[:500], now_ms()))
        _log.warning("audit_disagrees", lease=audited.lease_id, worker=audited.worker_id, banned=banned, why=why)

    def _look_for_suspects(self) -> None:
        """Whoever contributed to a version that the run has gone back from, or is at odds with another who trained its lease."""
        for version in self.ledger.rollbacks(self._rollback):
            self._rollback = version.version
            for number in range(version.parent + 1, version.version):
                made_of = self.ledger.contributions(number)
                self._waiting.extend(_Waiting(c.lease_id, c.worker_id, suspect=True) for c in made_of)
        for one in self.ledger.second_opinions(self._opinion):
            self._opinion = one.lease_id
            if one.opinion is not Opinion.AGREES:
                self._waiting.append(_Waiting(one.lease_id, one.worker_id, suspect=True))
                self._waiting.append(_Waiting(one.first_lease_id, one.first_worker_id, suspect=True))

    def _of(self, worker: WorkerId) -> Conduct:
        return self._conducts.setdefault(worker, Conduct())
