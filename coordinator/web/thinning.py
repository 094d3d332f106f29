"""Fewer of many, evenly spread: what a screen has room for. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def thinned(items: Sequence[T], most: int) -> list[T]:
    """At most `most` (2 or more) of `items`, in their order, at even distances; the first and the last are among them."""
    if len(items) <= most:
        return list(items)
    last = len(items) - 1
    return [items[round(place * last / (most - 1))] for place in range(most)]
