"""Which GPU is which: a person counts them as `nvidia-smi` does, torch in an order of its own and only those that it may see."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def switched_on(seen: Sequence[str], off: Collection[int], cards: Sequence[str]) -> tuple[int, ...]:
    """Places in `seen` of the GPUs whose number is not in `off`.

    `seen` are the UUIDs of those that torch sees, in its order, and `cards` of all, in that of `nvidia-smi`. Where that has no
    such card, as on another maker's, a GPU's number is its place.
    """
    numbers = {_bare(uuid): number for number, uuid in enumerate(cards)}
    return tuple(place for place, uuid in enumerate(seen) if numbers.get(_bare(uuid), place) not in off)


def _bare(uuid: str) -> str:
    """NVML writes GPU- before it, torch does not."""
    return uuid.lower().removeprefix("gpu-")
