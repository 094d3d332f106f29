"""Workers that wait for work, first come, first served: none is woken but to be given something, or to be sent away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from diffusion_at_home.identity import WorkerId

AnswerT = TypeVar("AnswerT")

_NEVER: Final = -1


class Place(Generic[AnswerT]):
    """A worker's place in the line."""

    worker: WorkerId
    answer: asyncio.Future[AnswerT]
    is_ready: bool
    """Set once the worker may be given something."""

    def __init__(self, worker: WorkerId) -> None:
        self.worker = worker
        self.is_ready = False
        self.answer: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        self._declined = (_NEVER, _NEVER)

    def decline(self, round_number: int, images: int) -> None:
        """Remember that of so many images of a round none were worth a lease to this worker."""
        self._declined = (round_number, images)

    def has_declined(self, round_number: int, images: int) -> bool:
        """Whether it would again: the time that is left only gets shorter."""
        return self._declined[0] == round_number and images <= self._declined[1]


class WaitingLine(Generic[AnswerT]):
    """A place for each worker that waits; who asks anew has left its old one, whose call is told `stale`."""

    def __init__(self, stale: AnswerT) -> None:
        self._stale = stale
        self._places: dict[WorkerId, Place[AnswerT]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Place[AnswerT]]:
        """From the first to the last; the line may change meanwhile."""
        return iter(list(self._places.values()))

    def __contains__(self, place: Place[AnswerT]) -> bool:
        return self._places.get(place.worker) is place

    def workers(self) -> set[WorkerId]:
        """All who wait."""
        return set(self._places)

    @contextmanager
    def wait(self, worker: WorkerId) -> Iterator[Place[AnswerT]]:
        """A place at the end of the line, as long as the caller is there."""
        place: Place[AnswerT] = Place(worker)
        if (before := self._places.pop(worker, None)) is not None:
            self._tell(before, self._stale)
        self._places[worker] = place
        try:
            yield place
        finally:
            if place in self:
                del self._places[worker]

    def give(self, place: Place[AnswerT], answer: AnswerT) -> None:
        """What it has waited for; it leaves the line."""
        if place in self:
            del self._places[place.worker]
        self._tell(place, answer)

    def send_away(self, answer: AnswerT) -> None:
        """Everybody, with the same answer."""
        for place in self:
            self.give(place, answer)

    @staticmethod
    def _tell(place: Place[AnswerT], answer: AnswerT) -> None:
        if not place.answer.done():
            place.answer.set_result(answer)
