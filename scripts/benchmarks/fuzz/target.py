"""One thing that a side reads although the other one, a server or a crash may have made it what it is."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

Read = Callable[[], object]
"""Reads one mutant, as the program does, and uses what it has read a little."""


class WronglyAccepted(Exception):
    """What a reader took for whole although it had been changed."""


@dataclass(frozen=True, slots=True)
class Target:
    """A reader with its examples."""

    kind: str
    """Name of its figures."""
    share: int
    """Of all mutations, in proportion to the others'."""
    mutant: Callable[[random.Random], Read]
    """Makes one of an example of ours, and lays it where it is read from."""
    refusals: tuple[type[Exception], ...]
    """What the reader may raise by its contract."""
