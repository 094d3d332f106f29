"""What a picture is refused for before anything of it is decoded: its licence, its owner's wish, its scores, no caption."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field, replace
from typing import Final

from diffusion_at_home.data.opt_outs import OptOuts
from diffusion_at_home.data.shards import MAX_TEXT_BYTES
from diffusion_at_home.data.sources.source import Raw, Reason, Refused
from diffusion_at_home.errors import ConfigError

_MAX_FACT_BYTES: Final = 4096
"""Of a licence, a source or an author."""

_RULE: Final = re.compile(r"\s*([^<>=]*[^<>=\s])\s*(>=|<=)\s*(\S+)\s*")


@dataclass(frozen=True, slots=True)
class ScoreRule:
    """What the number in one column of the source must be."""

    column: str
    bound: float
    is_least: bool
    """Whether `bound` is the least that is taken; else it is the most."""

    def __str__(self) -> str:
        return f"{self.column}{'>=' if self.is_least else '<='}{self.bound:g}"

    def holds(self, score: float) -> bool:
        """Whether `score` is taken; one that is not a number never is."""
        return score >= self.bound if self.is_least else score <= self.bound


def parse_score_rule(text: str) -> ScoreRule:
    """Read "aesthetic>=5" or "unsafe<=0.1". Raises `ConfigError`."""
    if match := _RULE.fullmatch(text):
        column, comparison, number = match.groups()
        try:
            bound = float(number)
        except ValueError:
            bound = math.nan
        if math.isfinite(bound):
            return ScoreRule(column, bound, is_least=comparison == ">=")
    raise ConfigError(f'the score rule {text!r} does not read like "aesthetic>=5" or "unsafe<=0.1": correct it')


@dataclass(frozen=True, slots=True)
class Screens:
    """What a data set lets in; by default everything that has a caption."""

    licenses: frozenset[str] = frozenset()
    """Those that are taken, upper or lower case; none takes all."""
    opt_outs: OptOuts = field(default_factory=OptOuts)
    scores: tuple[ScoreRule, ...] = ()
    """All must hold."""
    refuse_unscored: bool = True
    """Whether a picture without a column that a rule asks for is refused."""


def screen(raw: Raw, screens: Screens) -> Raw | Refused:
    """`raw` with its captions in order and all its text of a length that a shard takes, or why it is refused."""
    if screens.licenses and raw.license.casefold() not in {name.casefold() for name in screens.licenses}:
        return Refused(raw.name, Reason.LICENSE, _cut(raw.license, 100) or "none is given")
    if entry := screens.opt_outs.reason_against(raw):
        return Refused(raw.name, Reason.OPTED_OUT, _cut(entry, 1000))
    for rule in screens.scores:
        score = raw.scores.get(rule.column)
        if score is None and screens.refuse_unscored:
            return Refused(raw.name, Reason.SCORE, f"no {rule.column}, where {rule} is asked for")
        if score is not None and not rule.holds(score):
            return Refused(raw.name, Reason.SCORE, f"{rule.column} is {score:g}, where {rule} is asked for")
    whole = replace(
        raw,
        license=_cut(raw.license, _MAX_FACT_BYTES),
        source=_cut(raw.source, _MAX_FACT_BYTES),
        author=_cut(raw.author, _MAX_FACT_BYTES),
    )
    captions = _captions(whole)
    if not captions:
        return Refused(
            raw.name, Reason.NO_CAPTION, f"{len(raw.captions)} empty ones" if raw.captions else "none at all"
        )
    return replace(whole, captions=captions)


def _captions(raw: Raw) -> tuple[str, ...]:
    """Those that say something, each at most as long as a shard takes, and those behind the first together."""
    cut = [text for caption in raw.captions if (text := _cut(caption.strip(), MAX_TEXT_BYTES))]
    # The further ones share a sample's .json with what else is known of it (data/shards.py).
    left = MAX_TEXT_BYTES - sum(_json_bytes(text) for text in (raw.license, raw.source, raw.author)) - 100
    kept = cut[:1]
    for text in cut[1:]:
        left -= _json_bytes(text) + 1
        if left < 0:
            break
        kept.append(text)
    return tuple(kept)


def _cut(text: str, max_bytes: int) -> str:
    """`text` as at most `max_bytes` of UTF-8, cut between two characters."""
    # Half of a surrogate pair, which JSON may have, is no text.
    return text.encode("utf-8", errors="replace")[:max_bytes].decode("utf-8", errors="ignore").rstrip()


def _json_bytes(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode())
