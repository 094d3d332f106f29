"""Compares what two volunteers handed in for one lease, beside the rounds, and says who is at odds with the others.

Neither of the two is known to be right: what they differ by is stored, and the operator's auditor, where one runs, trains both
leases again (`coordinator.auditing`). Who is at odds with several, and they with nobody else, is a newcomer again meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from coordinator.blobs import BlobStore
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.opinion_queries import TrainedTwice
from coordinator.records import Action, ActionKind, Contribution, Opinion, SecondOpinion, now_ms
from diffusion_at_home import events
from diffusion_at_home.audit.agreement import Agreement, agreement
from diffusion_at_home.audit.tolerances import Tolerances, full_steps, tolerances
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.errors import IntegrityError
from diffusion_at_home.identity import WorkerId
from diffusion_at_home.kept_weights import KeptWeights
from diffusion_at_home.wire.chunk import DecodeError
from diffusion_at_home.wire.vector import VectorReader

_NOT_COMPARED = Agreement(0.0, 0.0, exact=False)

_log = events.logger("coordinator")


def opinion_of(found: Agreement, allowed: Tolerances, first: str, second: str) -> Opinion:
    """What it means that two deltas are so far apart, whose workers kept weights as they say (`Contribution.weights`)."""
    if allowed.close.allows(found):
        return Opinion.AGREES
    rounding = (first, second).count(KeptWeights.ROUNDED)
    if rounding == 2:  # by other random bits, which nobody has bounds for
        return Opinion.NONE
    honest = allowed.loose if rounding else allowed.doubtful
    return Opinion.NONE if honest.allows(found) else Opinion.DISAGREES


def at_odds(opinions: Iterable[SecondOpinion], strikes: int) -> set[WorkerId]:
    """Who disagrees with `strikes` others or more, each of whom agrees with somebody else, and with more than it agrees with."""
    agree: defaultdict[WorkerId, set[WorkerId]] = defaultdict(set)
    disagree: defaultdict[WorkerId, set[WorkerId]] = defaultdict(set)
    for one in opinions:
        sides = {Opinion.AGREES: agree, Opinion.DISAGREES: disagree}.get(one.opinion)
        if sides is not None:
            sides[one.worker_id].add(one.first_worker_id)
            sides[one.first_worker_id].add(one.worker_id)
    return {
        worker
        for worker, others in disagree.items()
        if sum(bool(agree[other] - {worker}) for other in others) >= max(strikes, len(agree[worker]) + 1)
    }


class SecondOpinions:
    """Of one run."""

    def __init__(self, *, config: RunConfig, num_elements: int, blobs: BlobStore, ledger: LedgerThread) -> None:
        self._config = config
        self._num_elements = num_elements
        self._blobs = blobs
        self._ledger = ledger
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="opinions")

    async def form(self, newest_round: int) -> None:
        """Have it in the ledger what became of all leases of rounds up to `newest_round` that two have trained.

        Raises `StorageError`; then the same call may be repeated.
        """
        if not self._config.audit.second_volunteer_share:
            return
        for twice in await self._ledger.run(Ledger.trained_twice, newest_round):
            opinion = await asyncio.get_running_loop().run_in_executor(self._executor, self._compare, twice)
            await self._ledger.run(Ledger.add_second_opinion, opinion)
            if opinion.opinion is Opinion.DISAGREES:
                await self._distrust(opinion)

    def close(self) -> None:
        """Finish what is being compared."""
        self._executor.shutdown(wait=True)

    async def _distrust(self, latest: SecondOpinion) -> None:
        _log.warning(
            "second_opinion_disagrees",
            lease=latest.first_lease_id,
            worker=latest.first_worker_id,
            second_lease=latest.lease_id,
            second_worker=latest.worker_id,
            cosine=latest.cosine,
            length_ratio=latest.length_ratio,
        )
        every = await self._ledger.run(Ledger.second_opinions)
        for worker in at_odds(every, self._config.audit.strikes) & {latest.worker_id, latest.first_worker_id}:
            note = (
                f"by other volunteers: several got something else for its leases, the latest of {latest.first_lease_id}"
            )
            await self._ledger.run(Ledger.add_action, Action(0, ActionKind.DISTRUST, worker, note, now_ms()))

    def _compare(self, twice: TrainedTwice) -> SecondOpinion:
        lease, first, second = twice.lease, twice.first, twice.second
        found, opinion = _NOT_COMPARED, Opinion.NONE
        if first.images == second.images:
            try:
                found = self._agreement(first, second)
            except (IntegrityError, DecodeError) as error:  # it has gone, or bad: what is here no more convicts nobody
                _log.warning("second_opinion_impossible", lease=lease.second_of, reason=str(error))
            else:
                steps = full_steps(self._config.inner, second.images)
                allowed = tolerances(self._config.codec.delta, lease.learning_rate, steps)
                opinion = opinion_of(found, allowed, first.weights, second.weights)
        return SecondOpinion(
            lease_id=second.lease_id,
            worker_id=second.worker_id,
            first_lease_id=first.lease_id,
            first_worker_id=first.worker_id,
            opinion=opinion,
            cosine=found.cosine,
            length_ratio=found.length_ratio,
            at_ms=now_ms(),
        )

    def _agreement(self, first: Contribution, second: Contribution) -> Agreement:
        codec = self._config.codec.delta
        with self._blobs.open(first.sha256) as one, self._blobs.open(second.sha256) as two:
            given, again = (VectorReader(data, codec, self._num_elements) for data in (one, two))
            return agreement((given.chunk(index), again.chunk(index)) for index in range(len(given)))
