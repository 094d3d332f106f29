"""Limits for each caller by itself, so that one who floods is turned away and nobody else: by address, or by worker.

Addresses live here, in memory, and nowhere else: no log, page or ledger has one.
"""

from __future__ import annotations

import ipaddress
import random
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final
from urllib.parse import unquote

from coordinator.refused import Refused
from diffusion_at_home.clock import Clock
from diffusion_at_home.rpc.coordinator_pb2 import Refusal

_MOST_CALLERS: Final = 65_536
"""Remembered at once; who has not called for longest is forgotten, and starts with a full allowance again."""

_IPV6_NETWORK: Final = 64
"""Bits of an IPv6 address that one household has; the rest it chooses itself."""

_SOON: Final = timedelta(seconds=5)
"""Until a place may be free, and up to twice that by chance: those who hold them all would else ask all the time."""


class RatePerCaller:
    """So many a second on average for each, and some at once."""

    def __init__(self, per_second: float, at_once: float, clock: Clock, chance: random.Random) -> None:
        """`per_second` 0 is no limit."""
        self._per_second = per_second
        self._at_once = at_once
        self._clock = clock
        self._chance = chance
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        """What each has left, and when it had that."""

    def enter(self, caller: Hashable | None, full: str) -> None:
        """One more of `caller`, None for one without limits. Raises `Refused` with the sentence `full` if that is too many."""
        if caller is None or not self._per_second:
            return
        now = self._clock.now()
        left, since = self._left.pop(caller, (self._at_once, now))
        left = min(self._at_once, left + (now - since) * self._per_second)
        self._left[caller] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > _MOST_CALLERS:
            self._left.popitem(last=False)
        if left < 1:
            wait = (1 - left) / self._per_second
            raise Refused(Refusal.REFUSAL_BUSY, full, timedelta(seconds=wait * (1 + self._chance.random())))


class PlacesPerCaller:
    """So many at once for each."""

    def __init__(self, number: int, chance: random.Random) -> None:
        """0 is no limit."""
        self._number = number
        self._chance = chance
        self._taken: Counter[Hashable] = Counter()

    @contextmanager
    def taken(self, caller: Hashable | None, full: str) -> Iterator[None]:
        """Within, one of `caller`'s places; None has no limits. Raises `Refused` with the sentence `full` if none is left."""
        if caller is None or not self._number:
            yield
            return
        if self._taken[caller] >= self._number:
            raise Refused(Refusal.REFUSAL_BUSY, full, _SOON * (1 + self._chance.random()))
        self._taken[caller] += 1
        try:
            yield
        finally:
            self._taken[caller] -= 1
            if not self._taken[caller]:
                del self._taken[caller]


class Addresses:
    """Whose call it is, as far as an address tells."""

    def __init__(self, unlimited_networks: Sequence[str]) -> None:
        self._unlimited = [ipaddress.ip_network(network) for network in unlimited_networks]

    def caller(self, host: str) -> Hashable | None:
        """What counts as one caller at `host`; None if it has no limits, or is no address."""
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return None
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if any(address in network for network in self._unlimited):
            return None
        if isinstance(address, ipaddress.IPv6Address):
            return ipaddress.ip_network((address, _IPV6_NETWORK), strict=False)
        return address


def peer_host(peer: str) -> str:
    """The address in what gRPC calls a peer, as in "ipv4:192.0.2.1:1234" or "ipv6:%5B2001:db8::1%5D:1234"."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")
