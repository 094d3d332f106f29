"""Long tables, a page at a time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

ROWS: Final = 100
"""Of one page."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Paging:
    """Which page this is."""

    page: int
    """From 1 on."""
    pages: int
    """At least 1."""
    rows: int
    """Of all pages."""

    @property
    def offset(self) -> int:
        """Rows on the pages before."""
        return (self.page - 1) * ROWS


def paging(asked: str, rows: int) -> Paging:
    """The page whose number is `asked`, of so many rows in all; what is no number is the first, what is too high the last."""
    pages = max(1, -(-rows // ROWS))
    number = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else 1
    return Paging(min(max(1, number), pages), pages, rows)


def page_of(items: Sequence[T], asked: str) -> tuple[Paging, Sequence[T]]:
    """That page, and its part of `items`."""
    found = paging(asked, len(items))
    return found, items[found.offset : found.offset + ROWS]
