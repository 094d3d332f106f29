"""What a simulated fleet is like: the keys of its TOML file and of --set, each with its unit."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from diffusion_at_home.config.toml import Section
from diffusion_at_home.config.values import Amount, Count, Fraction, Positive, Rate


class Spread(Section):
    """A lognormal distribution."""

    median: Amount
    """Half of the fleet has less."""
    sigma: Amount = 0.0
    """Standard deviation of the logarithm; 0 makes all alike, 0.7 puts one in six above twice the median."""


class LineSection(Section):
    """Volunteers' lines, on top of the real one to the coordinator."""

    up: Spread = Spread(median=0.0)
    """Uplink (Mbit/s); a median of 0 is no limit."""
    down: Spread = Spread(median=0.0)
    """Downlink (Mbit/s); a median of 0 is no limit."""
    delay: Spread = Spread(median=0.0)
    """Before each call reaches the coordinator (milliseconds)."""


class LifeSection(Section):
    """How long volunteers stay."""

    mean_seconds: Amount = 0.0
    """Mean of the exponentially distributed time after which one vanishes without a word (seconds); 0 is for ever."""
    pause: Spread = Spread(median=10.0)
    """Until it is back with the same key and nothing else (seconds)."""


class MisbehaviourSection(Section):
    """Shares of the fleet that do one thing wrong each, all their life; the rest is honest."""

    hang: Fraction = 0.0
    """Take leases, beat, and never hand in."""
    slow: Fraction = 0.0
    """Are 20 times slower than they claim."""
    not_finite: Fraction = 0.0
    """Hand in a number that is none."""
    garbage: Fraction = 0.0
    """Hand in random bytes of the right size."""
    wrong_size: Fraction = 0.0
    """Hand in half of a delta."""
    mutate: Fraction = 0.0
    """Send heartbeats and headers with a field changed at random."""
    lose_receipts: Fraction = 0.0
    """Never see the first receipt, and hand in again."""
    twice: Fraction = 0.0
    """Hand in again what has its receipt, then another delta for the same lease."""
    oversleep: Fraction = 0.0
    """Fall silent for longer than a lease may be, then go on as if nothing had happened."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        total = sum(getattr(self, name) for name in type(self).model_fields)
        if total > 1 + 1e-9:
            raise ValueError(f"the shares add up to {total:g}: lower one, they must leave room for each other in 1")
        return self


class FleetSettings(Section):
    """A fleet."""

    workers: Positive = 100
    """Volunteers, each with a key and a session of its own."""
    seed: Count = 0
    """Of everything that is drawn: keys, speeds, lines, deaths, deltas."""
    channels: Count = 0
    """Connections that the volunteers share for their calls, and as many again for what they hand in; 0 gives each its own, as
    workers have them. A coordinator allows so many calls at once over one that ten volunteers can share it."""
    join_within_seconds: Amount = 1.0
    """Time over which they arrive at the start (seconds)."""
    speed: Spread = Spread(median=20.0, sigma=0.6)
    """Training (images/s); 0 is instant."""
    claim_speed: bool = False
    """Whether a volunteer says its speed before its first lease; else it is probed, as a new worker is."""
    wait_seconds: Amount = 20.0
    """How long one Lease call waits for work (seconds)."""
    retry_ceiling_seconds: Rate = 15.0
    """Longest pause between tries while nobody answers (seconds)."""
    fetch_weights: bool = False
    """Whether what a lease needs is really fetched, and thrown away; else it only takes the line's time."""
    deltas: Positive = 8
    """Different deltas encoded beforehand; fp32 and int8 ones are made unique at each hand-in."""
    line: LineSection = LineSection()
    life: LifeSection = LifeSection()
    misbehaviour: MisbehaviourSection = MisbehaviourSection()

    @model_validator(mode="after")
    def _pauses(self) -> Self:
        if self.life.mean_seconds and not self.life.pause.median:
            raise ValueError("volunteers that vanish need a pause before they are back: set life.pause.median")
        return self


def describe_keys() -> str:
    """Every key with its default and its meaning, one a line."""
    return "\n".join(f"  {key:<28}{default:<10}{meaning}" for key, default, meaning in _keys(FleetSettings(), ""))


def _keys(section: Section, prefix: str) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    for name, field in type(section).model_fields.items():
        value, words = getattr(section, name), " ".join((field.description or "").split())
        if isinstance(value, Spread):
            found.append((f"{prefix}{name}.median", f"{value.median:g}", words))
            found.append((f"{prefix}{name}.sigma", f"{value.sigma:g}", "spread of that: see below"))
        elif isinstance(value, Section):
            found += _keys(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", str(value).lower(), words))
    return found
