"""Overhead of a round: two workers that train nothing and hand in a whole delta, over real sockets on loopback.

Seconds a round, from one published version to the next, of the coordinator's own ledger; beside it what Flower and hivemind
take for as many numbers, size by size in turn with ours. The first rounds, in which workers fetch a snapshot and measure their
speed, are left out. A peer that cannot run here is named on stderr, and has no figures.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.figures import Figure
from benchmarks.round import ours, peers
from benchmarks.round.environment import PeerUnavailable
from benchmarks.round.peers import Peer

MODELS: Final = {
    1: ("model.prx.hidden_size=48", "model.prx.depth=3", "model.prx.heads=2"),
    40: ("model.prx.hidden_size=384", "model.prx.depth=3", "model.prx.heads=6"),
    160: ("model.prx.hidden_size=384", "model.prx.depth=12", "model.prx.heads=6"),
}
"""Overrides of configs/digits.toml by the size of its weights (MB of fp32), within a few percent."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    rounds: int
    """Of ours, with those left out."""
    peer_rounds: dict[Peer, int]
    """Of each peer, without those left out."""
    megabytes: tuple[int, ...]
    """Sizes, of `MODELS`."""


_FULL: Final = Extent(14, {Peer.HIVEMIND: 10, Peer.FLOWER: 10}, megabytes=(1, 40, 160))
_QUICK: Final = Extent(6, {Peer.HIVEMIND: 4, Peer.FLOWER: 1}, megabytes=(1, 40))


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See `benchmarks.figures.Benchmark`."""
    extent = _QUICK if quick else _FULL
    figures: dict[str, Figure] = {}
    for megabytes in extent.megabytes:
        size = f"{megabytes}mb"
        found = ours.measure([*MODELS[megabytes], *overrides], rounds=extent.rounds)
        _tell(size, "ours", found.seconds)
        figures[f"seconds_ours_{size}"] = Figure(found.seconds, "s")
        figures[f"uplink_bytes_per_parameter_{size}"] = Figure((found.uplink_bytes,), "B")
        figures[f"downlink_bytes_per_parameter_{size}"] = Figure((found.downlink_bytes,), "B")
        for peer, rounds in extent.peer_rounds.items():
            figures |= _beside(found, peer, rounds, size)
    return figures


def _beside(found: ours.Measured, peer: Peer, rounds: int, size: str) -> dict[str, Figure]:
    """The peer's seconds, and how they compare; nothing if it cannot run."""
    try:
        seconds = peers.measure(peer, found.num_parameters, rounds=rounds)
    except PeerUnavailable as error:
        print(error, file=sys.stderr, flush=True)
        return {}
    _tell(size, peer.value, seconds)
    ratio = statistics.median(seconds) / statistics.median(found.seconds)
    return {
        f"seconds_{peer.value}_{size}": Figure(seconds, "s"),
        f"ratio_{peer.value}_{size}": Figure((ratio if peer is Peer.FLOWER else 1 / ratio,), "1"),
    }


def _tell(size: str, whose: str, seconds: Sequence[float]) -> None:
    print(f"{size}, {whose}: {statistics.median(seconds):.3f} s", file=sys.stderr, flush=True)
