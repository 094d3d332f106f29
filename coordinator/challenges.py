"""What workers are asked to show of residuals that they have committed to, before their contributions count.

Leaves are drawn once the bytes of a contribution are here, and stay the same until they are shown, or the lease has ended; other
bytes for that lease are refused meanwhile, so nobody tries its luck. Only in memory: after a restart others are drawn.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from coordinator.blobs import mapped
from coordinator.records import LeaseId
from coordinator.refused import Refused
from coordinator.screening import Expected
from diffusion_at_home.audit.residual import Commitment, Misfit, ShownLeaf, Terms, check_shown, num_leaves
from diffusion_at_home.audit.shown import read_leaf
from diffusion_at_home.rpc.coordinator_pb2 import Refusal, ResidualChallenge, SubmitHeader, SubmitRequest
from diffusion_at_home.wire.vector import VectorReader


@dataclass(frozen=True, slots=True)
class Challenge:
    """Of one lease."""

    sha256: str
    """Of the contribution."""
    commitment: Commitment
    leaves: tuple[int, ...]
    """Ascending."""

    def message(self) -> ResidualChallenge:
        """As it is sent."""
        return ResidualChallenge(leaves=self.leaves)


@dataclass(slots=True)
class Challenges:
    """Those that are under way."""

    expected: Expected
    chance: random.Random = field(default_factory=random.SystemRandom)
    _under_way: dict[LeaseId, Challenge] = field(default_factory=dict)

    def of(self, header: SubmitHeader) -> Challenge | None:
        """What that contribution was asked for. Raises `Refused` if its lease was challenged for another one."""
        challenge = self._under_way.get(LeaseId(header.lease_id))
        if challenge is None or (challenge.sha256, challenge.commitment) == (header.sha256, _commitment(header)):
            return challenge
        sentence = f"lease {header.lease_id} has announced another contribution, of which it is to show its residual"
        raise Refused(Refusal.REFUSAL_DUPLICATE, sentence)

    def draw(self, header: SubmitHeader) -> Challenge:
        """Ask for some: the contribution is here and sound."""
        every = range(num_leaves(self.expected.num_elements))
        drawn = self.chance.sample(every, min(self.expected.shown_leaves, len(every)))
        challenge = Challenge(header.sha256, _commitment(header), tuple(sorted(drawn)))
        self._under_way[LeaseId(header.lease_id)] = challenge
        return challenge

    def check(self, path: Path, challenge: Challenge, shown: list[ShownLeaf]) -> None:
        """Compare what is shown with the contribution in `path` and with what was committed to. Blocks. Raises `Refused`."""
        expected = self.expected
        terms = Terms(expected.num_elements, expected.codec, expected.feedback, challenge.commitment)
        with mapped(path) as data:
            try:
                check_shown(shown, challenge.leaves, VectorReader(data, expected.codec, expected.num_elements), terms)
            except Misfit as misfit:
                raise Refused(Refusal.REFUSAL_WRONG_RESIDUAL, f"what was shown of the residual: {misfit}") from None

    def forget(self, lease_id: LeaseId) -> None:
        """It is over."""
        self._under_way.pop(lease_id, None)

    def forget_all_but(self, lease_ids: set[LeaseId]) -> None:
        """Only these may still count."""
        self._under_way = {lease: one for lease, one in self._under_way.items() if lease in lease_ids}


async def put_aside_shown(
    requests: AsyncIterator[SubmitRequest], shown: list[ShownLeaf], most: int
) -> AsyncIterator[SubmitRequest]:
    """The rest of a stream, and into `shown` the leaves that it has, at most so many. Raises `Refused`."""
    async for request in requests:
        if request.WhichOneof("part") != "shown":
            yield request
            continue
        if len(shown) == most:
            raise Refused(Refusal.REFUSAL_MALFORMED, f"more than {most} leaves of a residual are shown")
        try:
            shown.append(read_leaf(request.shown))
        except Misfit as misfit:
            raise Refused(Refusal.REFUSAL_MALFORMED, str(misfit)) from None


def _commitment(header: SubmitHeader) -> Commitment:
    return Commitment(header.residual_before, header.residual_after)
