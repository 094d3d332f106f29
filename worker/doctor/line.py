"""How fast the line is, found out with few bytes on a slow line and in little time on a fast one."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import httpx2

from diffusion_at_home.clock import Clock
from diffusion_at_home.errors import RetryCall
from diffusion_at_home.linetest import LINE_TEST_PATH
from worker.run_address import RunAddress

_FIRST_BYTES: Final = 32 * 2**10
"""Two seconds of a line of 128 kbit/s."""

_GROWTH: Final = 8

_PIECE: Final = os.urandom(1 << 16)
"""Sent again and again: what a tunnel on the way cannot compress."""


class NotMeasured(RetryCall):
    """The coordinator offers no line test, or not now."""


def measure(transfer: Callable[[int], float], most_bytes: int, most_seconds: float) -> float:
    """Bits a second of the largest of a few transfers, each larger than the one before, in about `most_seconds`.

    `transfer` moves that many bytes and returns the seconds it took.
    """
    size, left = min(_FIRST_BYTES, most_bytes), most_seconds
    while True:
        seconds = max(transfer(size), 1e-6)
        left -= seconds
        if size == most_bytes or left <= seconds:
            return 8 * size / seconds
        size = min(most_bytes, int(size * min(_GROWTH, left / seconds)))


class LineTest:
    """Transfers with the coordinator at `address`; each raises `NotMeasured`, `RetryCall` or httpx2's own errors."""

    def __init__(self, address: RunAddress, http: httpx2.Client, clock: Clock) -> None:
        self._url = address.url + LINE_TEST_PATH
        self._http = http
        self._clock = clock

    def down(self, num_bytes: int) -> float:
        """Seconds in which so many bytes arrived."""
        headers = {"Accept-Encoding": "identity"}
        received = 0
        begun = self._clock.now()
        with self._http.stream("GET", self._url, params={"bytes": num_bytes}, headers=headers) as response:
            _admit(response)
            for piece in response.iter_raw():
                received += len(piece)
                if received > num_bytes:
                    break
        if received != num_bytes:
            raise RetryCall(f"{self._url} sends {received} bytes instead of {num_bytes}")
        return self._clock.now() - begun

    def up(self, num_bytes: int) -> float:
        """Seconds until the other side had so many bytes."""
        body = (_PIECE * (num_bytes // len(_PIECE) + 1))[:num_bytes]
        begun = self._clock.now()
        _admit(self._http.post(self._url, content=body, headers={"Content-Type": "application/octet-stream"}))
        return self._clock.now() - begun


def _admit(response: httpx2.Response) -> None:
    if response.status_code in {404, 405}:
        raise NotMeasured("this coordinator is too old to measure lines")
    if response.status_code in {429, 503}:
        raise NotMeasured("others are measuring their lines just now")
    if not response.is_success:
        raise RetryCall(f"{response.url.host} answers the line test with HTTP {response.status_code}")
