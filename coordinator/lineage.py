"""Which versions a version was made from: a run that went back has some that no later one descends from."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.records import Version


def lineage(history: Sequence[Version], version: int) -> list[int]:
    """The versions of `history` that `version` was made from, one after the other, and itself."""
    way = [version]
    while way[-1] > 0:
        way.append(history[way[-1]].parent)
    return way[::-1]
