"""What the columns beside a picture mean, as img2dataset, LAION and Hugging Face data sets call them.

A record is a mapping of names to plain values that somebody else wrote: nothing in it is believed to have a type or a length.
Their names are compared without regard to case. Every number becomes a score, also those that nobody asks for; text that no name
explains is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

CAPTION_NAMES: Final = ("caption", "text", "prompt", "captions", "sentences", "alt", "alt_text", "description", "title")
"""Best first: whichever of them are there are captions, the first one the main one."""
URL_NAMES: Final = ("url", "image_url")
LICENSE_NAMES: Final = ("license", "licence", "license_name", "license_url")
AUTHOR_NAMES: Final = ("author", "artist", "creator", "photographer", "owner")

MAX_WORDS: Final = 1000
"""Characters of a licence, an author or a URL; a longer one is none."""
MAX_CAPTIONS: Final = 16
"""Of one picture; those behind are left out."""
MAX_SCORES: Final = 64
"""Of one picture; those behind are left out."""

_OTHER_THAN_PLAIN: Final = re.compile(r"[^a-z0-9._-]+")
_GRADES: Final = {"unlikely": 0.0, "unsure": 0.5, "nsfw": 1.0}
"""What LAION's column NSFW says in words."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a picture."""

    captions: tuple[str, ...]
    url: str
    license: str
    author: str
    scores: dict[str, float]
    """By name; all finite."""


def read_facts(
    record: Mapping[str, object], *, caption_names: Sequence[str] = CAPTION_NAMES, captions: Iterable[str] = ()
) -> Facts:
    """Make sense of `record`.

    Args:
        record: column by column.
        caption_names: lower case, the main one first.
        captions: found elsewhere; they come first.
    """
    named = {name.lower(): value for name, value in record.items()}
    found = [clean(caption) for caption in captions]
    for name in caption_names:
        found.extend(_texts(named.get(name)))
    return Facts(
        captions=tuple(dict.fromkeys(caption for caption in found if caption))[:MAX_CAPTIONS],
        url=_first(named, URL_NAMES),
        license=_first(named, LICENSE_NAMES),
        author=_first(named, AUTHOR_NAMES),
        scores=_scores(record),
    )


def clean(text: str) -> str:
    """`text` without what cannot be written as UTF-8, without NULs, and without white space around it."""
    return text.encode("utf-8", errors="ignore").decode().replace("\0", "").strip()


def plain_name(text: str) -> str:
    """A name that a data set may have, as near to `text` as can be."""
    return _OTHER_THAN_PLAIN.sub("-", text.lower()).strip("-._")[:63] or "pictures"


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [clean(value)]
    if isinstance(value, list):
        return [clean(item) for item in value[:MAX_CAPTIONS] if isinstance(item, str)]
    return []


def _first(named: Mapping[str, object], names: Sequence[str]) -> str:
    for name in names:
        for text in _texts(named.get(name)):
            if text and len(text) <= MAX_WORDS:
                return text
    return ""


def _scores(record: Mapping[str, object]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for name, value in record.items():
        number = _number(value) if len(name) <= MAX_WORDS else None
        if number is not None and len(scores) < MAX_SCORES:
            scores[clean(name)] = number
    return scores


def _number(value: object) -> float | None:
    if isinstance(value, str):
        return _GRADES.get(value.lower())
    if not isinstance(value, (bool, int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
