"""What the other side says in words, as it may be shown: one line, of bounded length, without anything that a terminal obeys."""

from __future__ import annotations

from typing import Final

MOST: Final = 300
"""Characters."""


def told(text: str, most: int = MOST) -> str:
    """`text` in one line of at most `most` characters; what cannot be printed is a space, also marks that turn text around."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * most]).split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"
