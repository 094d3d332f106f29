"""What may go when a run's folder outgrows its quota: a pure function of what there is.

Whatever happens, these stay: specification, shards and held-out shards; the newest state; the last two snapshots and the
updates since the older of them; contributions since the newest state, and those of the round under way; the first, the
best and the latest checkpoint; judgements. The rest goes in the order of `plan`, no more of it than is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from coordinator.best import best_of

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class KeptCheckpoint:
    """One that is offered."""

    name: str
    images: int
    size_bytes: int
    held_out_loss: float


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a run's folder holds, in bytes; what may never go is only in `total_bytes`."""

    total_bytes: int
    newest: int
    """The newest published version."""
    saved: int
    """The version of the newest saved state."""
    state_bytes: int
    """Of one state, whatever its version."""
    anchor: int
    """The version of the anchor; 0 is the seed, which takes no space."""
    anchor_bytes: int
    oldest_snapshot: int
    """The version of the oldest snapshot that joiners may start from."""
    damaged: Mapping[str, int] = field(default_factory=dict)
    """What was set aside, by name."""
    updates: Mapping[int, int] = field(default_factory=dict)
    """Updates that are there, by version."""
    states: Mapping[int, int] = field(default_factory=dict)
    """Saved states but the newest, by version; 0 bytes where something else needs the file too."""
    contributions: Mapping[int, int] = field(default_factory=dict)
    """Those since the anchor, by the last round in which they count."""
    checkpoints: Sequence[KeptCheckpoint] = ()
    """Oldest first."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes. Nothing of it is needed by what stays."""

    damaged: tuple[str, ...] = ()
    updates_upto: int = 0
    """Updates to this version and before it go; 0 is none."""
    states: tuple[int, ...] = ()
    anchor: int | None = None
    """The state of this version becomes the anchor, and contributions up to it go; None leaves the anchor where it is."""
    checkpoints: tuple[str, ...] = ()
    wants_save: bool = False
    """The anchor could move on if the newest state were saved."""
    waits: bool = False
    """What is above the quota goes once the contributions since the anchor weigh more than a state: until then, nothing does."""
    over_bytes: int = 0
    """What is above the quota even so."""


def plan(holdings: Holdings, quota_bytes: int, *, may_save: bool) -> Plan:
    """What goes so that `holdings` fit `quota_bytes` (0: no limit), or all that may."""
    over = holdings.total_bytes - quota_bytes
    if quota_bytes == 0 or over <= 0:
        return Plan()
    damaged, over = _oldest(holdings.damaged, over)
    spare = {v: size for v, size in holdings.updates.items() if v <= holdings.oldest_snapshot}
    updates, over = _oldest(dict(sorted(spare.items())), over)
    states, anchor, over = _move_anchor(holdings, over)
    held = {n: size for n, size in holdings.contributions.items() if n > (anchor or holdings.anchor)}
    wants_save = over > 0 and may_save and _could_move_on(holdings, anchor or holdings.anchor)
    waits = may_save and (wants_save or 0 < over <= sum(held.values()))
    names: tuple[str, ...] = ()
    if over > 0 and not waits:
        names, over = _thin(holdings.checkpoints, over)
    return Plan(
        damaged=damaged,
        updates_upto=max(updates, default=0),
        states=states,
        anchor=anchor,
        checkpoints=names,
        wants_save=wants_save,
        waits=waits,
        over_bytes=max(over, 0),
    )


def must_keep(checkpoints: Sequence[KeptCheckpoint]) -> set[str]:
    """The names of the first, the best and the latest."""
    if not checkpoints:
        return set()
    best = best_of(checkpoints)
    assert best is not None
    return {checkpoints[0].name, best.name, checkpoints[-1].name}


def _oldest(sizes: Mapping[K, int], over: int) -> tuple[tuple[K, ...], int]:
    """As many of the first of `sizes` as are needed, and what is over then."""
    gone: list[K] = []
    for key, size in sizes.items():
        if over <= 0:
            break
        gone.append(key)
        over -= size
    return tuple(gone), over


def _could_move_on(holdings: Holdings, anchor: int) -> bool:
    """Whether two states saved from here on would let go of more contributions than one of them weighs."""
    freed = (size for number, size in holdings.contributions.items() if anchor < number <= holdings.newest)
    return sum(freed) > holdings.state_bytes


def _move_anchor(holdings: Holdings, over: int) -> tuple[tuple[int, ...], int | None, int]:
    """The saved states that go, the new anchor or None, and what is over then.

    The state before the newest one is only a convenience: if it is enough, it goes. Else it becomes the anchor, which
    costs nothing, and contributions up to it go, and the old anchor, where they weigh more than the state. Of several the
    lowest that is enough is taken.
    """
    older = {v: size for v, size in sorted(holdings.states.items()) if v < holdings.saved}
    all_states = sum(older.values())
    if over <= all_states:
        states, over = _oldest(older, over)
        return states, None, over
    anchor, left = None, over - all_states
    for version in (v for v in older if v > holdings.anchor):
        freed = sum(size for number, size in holdings.contributions.items() if number <= version)
        moved = over - (all_states - older[version]) - freed - holdings.anchor_bytes
        if moved < left:
            anchor, left = version, moved
        if left <= 0:
            break
    return tuple(v for v in older if v != anchor), anchor, left


def _thin(checkpoints: Sequence[KeptCheckpoint], over: int) -> tuple[tuple[str, ...], int]:
    """The checkpoints that go, so that what stays lies roughly evenly on a log scale of images; and what is over then."""
    must, left, gone = must_keep(checkpoints), list(checkpoints), []
    while over > 0:
        spare = [index for index, checkpoint in enumerate(left) if checkpoint.name not in must]
        if not spare:
            break
        # The first and the last stay, so both neighbours exist: the one that leaves the smallest gap goes.
        index = min(spare, key=lambda i: math.log(max(left[i + 1].images, 1) / max(left[i - 1].images, 1)))
        over -= left[index].size_bytes
        gone.append(left.pop(index).name)
    return tuple(gone), over
