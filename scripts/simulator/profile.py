"""One volunteer of a fleet: everything about it is drawn from the fleet's seed and its own number."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from diffusion_at_home.identity import Identity
from simulator.settings import FleetSettings, MisbehaviourSection, Spread

_MEGABIT_BYTES = 125_000


class Misbehaviour(StrEnum):
    """What a volunteer does wrong; the names are the keys of `MisbehaviourSection`."""

    NONE = "none"
    HANG = "hang"
    SLOW = "slow"
    NOT_FINITE = "not_finite"
    GARBAGE = "garbage"
    WRONG_SIZE = "wrong_size"
    MUTATE = "mutate"
    LOSE_RECEIPTS = "lose_receipts"
    TWICE = "twice"
    OVERSLEEP = "oversleep"


@dataclass(frozen=True, slots=True)
class Line:
    """What a volunteer's line adds to the real one."""

    up_bytes_per_second: float
    down_bytes_per_second: float
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Profile:
    """One volunteer."""

    number: int
    identity: Identity
    images_per_second: float
    line: Line
    misbehaviour: Misbehaviour
    arrives_after_seconds: float
    rng: random.Random
    """Its own, so that no volunteer's luck depends on another's."""


def draw_fleet(settings: FleetSettings) -> list[Profile]:
    """All volunteers; who misbehaves is drawn so that each share is met as nearly as whole volunteers allow."""
    kinds = _misbehaviours(settings.misbehaviour, settings.workers)
    _rng(settings, "misbehaviour").shuffle(kinds)
    return [_profile(settings, number, kind) for number, kind in enumerate(kinds)]


def draw(spread: Spread, rng: random.Random) -> float:
    """A value of the distribution."""
    return spread.median * math.exp(spread.sigma * rng.gauss(0.0, 1.0))


def _profile(settings: FleetSettings, number: int, misbehaviour: Misbehaviour) -> Profile:
    rng = _rng(settings, f"volunteer {number}")
    line = Line(
        up_bytes_per_second=draw(settings.line.up, rng) * _MEGABIT_BYTES or math.inf,
        down_bytes_per_second=draw(settings.line.down, rng) * _MEGABIT_BYTES or math.inf,
        delay_seconds=draw(settings.line.delay, rng) / 1000,
    )
    return Profile(
        number=number,
        identity=Identity(Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))),
        images_per_second=draw(settings.speed, rng) or math.inf,
        line=line,
        misbehaviour=misbehaviour,
        arrives_after_seconds=rng.uniform(0.0, settings.join_within_seconds),
        rng=rng,
    )


def _misbehaviours(shares: MisbehaviourSection, workers: int) -> list[Misbehaviour]:
    kinds: list[Misbehaviour] = []
    wanted = 0.0
    for name in type(shares).model_fields:
        wanted += getattr(shares, name) * workers
        kinds += [Misbehaviour(name)] * (min(round(wanted), workers) - len(kinds))
    return kinds + [Misbehaviour.NONE] * (workers - len(kinds))


def _rng(settings: FleetSettings, purpose: str) -> random.Random:
    return random.Random(f"{settings.seed} {purpose}")  # noqa: S311 -- the keys are no secrets
