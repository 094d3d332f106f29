"""The workers that are there: who was heard lately, with how many devices, and how fast they are."""

from __future__ import annotations

import math
from collections.abc import Hashable, Set
from dataclasses import dataclass
from typing import Final

from coordinator.quota import Asker, PaceBook, seconds_for
from coordinator.records import Contribution, Round
from diffusion_at_home.clock import Clock
from diffusion_at_home.identity import WorkerId

_LIVE_HEARTBEATS: Final = 3
"""Heartbeats after which a silent worker no longer counts for the fleet's speed."""

_SUMMED_SECONDS: Final = 1.0
"""For which the pace of an unchanged fleet is not summed up again."""


@dataclass(frozen=True, slots=True)
class _Summed:
    """How long the live workers take for a round's target; None if nobody's pace is known."""

    round_number: int
    seconds: float | None
    summed_at: float


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a worker calls from, and with whom it says that it belongs: as much as anybody knows of a person."""

    address: Hashable | None = None
    """None of one that says nothing, such as the operator's own."""
    team: str = ""
    """Empty of none."""

    def is_apart_from(self, other: Origin) -> bool:
        """Whether the two seem to be different people's."""
        same_address = self.address is not None and self.address == other.address
        return not same_address and not (self.team and self.team == other.team)


class Fleet:
    """What is known of them; in memory only, so after a restart they introduce themselves again."""

    def __init__(self, *, heartbeat_seconds: float, clock: Clock) -> None:
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = clock
        self._heard: dict[WorkerId, float] = {}
        self._devices: dict[WorkerId, int] = {}
        self._origins: dict[WorkerId, Origin] = {}
        self._paces = PaceBook()
        self._summed: _Summed | None = None

    def greet(self, worker: WorkerId, claimed_speed: float, devices: int, origin: Origin) -> None:
        """A worker is there, and says so of its speed and its devices."""
        self.heard(worker)
        self._origins[worker] = origin
        self._devices[worker] = devices
        self._paces.suggest(worker, claimed_speed)

    def heard(self, worker: WorkerId) -> None:
        """A worker is there."""
        self._heard[worker] = self._clock.now()

    def live(self, waiting: Set[WorkerId]) -> list[WorkerId]:
        """Those heard lately, and those that are `waiting`."""
        oldest = self._clock.now() - _LIVE_HEARTBEATS * self._heartbeat_seconds
        return [worker for worker, heard_at in self._heard.items() if heard_at >= oldest or worker in waiting]

    def forget_all_but_live(self, waiting: Set[WorkerId]) -> None:
        """Who has left is remembered by its pace alone."""
        self._heard = {worker: self._heard[worker] for worker in self.live(waiting)}
        self._devices = {worker: self._devices.get(worker, 1) for worker in self._heard}
        self._origins = {worker: origin for worker, origin in self._origins.items() if worker in self._heard}

    def are_apart(self, worker: WorkerId, other: WorkerId) -> bool:
        """Whether both are known to be different people's, as far as anything is known."""
        one, two = self._origins.get(worker), self._origins.get(other)
        return worker != other and one is not None and two is not None and one.is_apart_from(two)

    def speed(self, worker: WorkerId) -> float | None:
        """Images a second while it trains, None while unknown."""
        pace = self._paces.get(worker)
        return None if pace is None else pace.images_per_second

    def silent_seconds(self, worker: WorkerId) -> float:
        """Since a worker was heard; one that is not known was never."""
        heard_at = self._heard.get(worker)
        return math.inf if heard_at is None else self._clock.now() - heard_at

    def learn(self, contribution: Contribution, seconds: float) -> None:
        """From a lease that took `seconds` from grant to receipt."""
        self._paces.learn(
            contribution.worker_id,
            contribution.images,
            trained_seconds=contribution.train_ms / 1000,
            seconds=seconds,
        )

    def asker(self, worker: WorkerId) -> Asker:
        """The worker, as far as its lease's size depends on it."""
        return Asker(self._paces.get(worker), self._devices.get(worker, 1))

    def seconds_for(self, opened: Round, waiting: Set[WorkerId], again_images: int = 0) -> float | None:
        """How long the live workers take for the round's target and what is trained again; None if nobody's pace is known."""
        now, summed = self._clock.now(), self._summed
        if summed is None or summed.round_number != opened.number or now >= summed.summed_at + _SUMMED_SECONDS:
            paces = [pace for live in self.live(waiting) if (pace := self._paces.get(live)) is not None]
            seconds = seconds_for(opened.target_images + again_images, paces) if paces else None
            summed = self._summed = _Summed(opened.number, seconds, now)
        return summed.seconds
