"""Measuring a line: few bytes where it is slow, little time where it is fast, and an end to all waiting."""

from __future__ import annotations

import itertools
import threading
from datetime import timedelta

import httpx2
import pytest

from diffusion_at_home.clock import ManualClock, SystemClock
from diffusion_at_home.errors import ConfigError, RetryCall, Unreachable
from worker.doctor.deadline import Deadline
from worker.doctor.line import LineTest, NotMeasured, measure
from worker.run_address import RunAddress

MOST_BYTES = 4 * 2**20


class Line:
    """One of so many bits a second, with a round trip before each transfer."""

    def __init__(self, bits: float, round_trip_seconds: float = 0.0) -> None:
        self.bits = bits
        self.round_trip_seconds = round_trip_seconds
        self.sizes: list[int] = []
        self.seconds = 0.0

    def transfer(self, num_bytes: int) -> float:
        self.sizes.append(num_bytes)
        seconds = self.round_trip_seconds + 8 * num_bytes / self.bits
        self.seconds += seconds
        return seconds


@pytest.mark.parametrize("bits", [5e4, 2e5, 1e6, 1e7, 1e8, 1e10])
def test_any_line_is_measured_within_the_bounds(bits: float) -> None:
    line = Line(bits)
    assert measure(line.transfer, MOST_BYTES, 3.0) == pytest.approx(bits)
    assert max(line.sizes) <= MOST_BYTES
    assert line.seconds <= 3.0 or len(line.sizes) == 1


def test_a_fast_line_is_measured_with_the_most_bytes() -> None:
    line = Line(1e9, round_trip_seconds=0.02)
    measured = measure(line.transfer, MOST_BYTES, 3.0)
    assert line.sizes[-1] == MOST_BYTES
    assert 0.5e9 < measured < 1e9


def test_a_transfer_in_no_time_ends_too() -> None:
    assert measure(lambda _: 0.0, MOST_BYTES, 3.0) > 0


def answering(status: int, body: bytes = b"") -> httpx2.Client:
    return httpx2.Client(transport=httpx2.MockTransport(lambda _: httpx2.Response(status, content=iter([body]))))


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (404, NotMeasured, "too old"),
        (405, NotMeasured, "too old"),
        (503, NotMeasured, "others are measuring"),
        (500, RetryCall, "HTTP 500"),
        (413, RetryCall, "HTTP 413"),
    ],
)
def test_an_answer_that_is_no_measurement_is_told_apart(status: int, kind: type[RetryCall], said: str) -> None:
    with answering(status) as http:
        line = LineTest(RunAddress("http://run"), http, ManualClock())
        for way in (line.up, line.down):
            with pytest.raises(RetryCall, match=said) as raised:
                way(100)
            assert type(raised.value) is kind


def test_a_body_of_another_size_measures_nothing() -> None:
    for num_bytes, received in ((100, 5), (3, 5)):
        with (
            answering(200, b"short") as http,
            pytest.raises(RetryCall, match=f"sends {received} bytes instead of {num_bytes}"),
        ):
            LineTest(RunAddress("http://run"), http, ManualClock()).down(num_bytes)


def test_a_body_without_end_is_not_read_to_its_end() -> None:
    def endless(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=itertools.repeat(b"x" * 60))

    with httpx2.Client(transport=httpx2.MockTransport(endless)) as http, pytest.raises(RetryCall, match="sends 120"):
        LineTest(RunAddress("http://run"), http, ManualClock()).down(100)


def test_an_upload_follows_a_redirect() -> None:
    received: list[int] = []

    def moved(request: httpx2.Request) -> httpx2.Response:
        if request.url.host == "old":
            return httpx2.Response(307, headers={"Location": "http://new/line-test"})
        received.append(len(request.read()))
        return httpx2.Response(204)

    with httpx2.Client(transport=httpx2.MockTransport(moved), follow_redirects=True) as http:
        LineTest(RunAddress("http://old"), http, ManualClock()).up(100_000)
    assert received == [100_000]


def test_work_within_its_time_gives_its_result_or_its_error() -> None:
    deadline = Deadline(timedelta(seconds=60), SystemClock())
    assert deadline.within(timedelta(seconds=60), lambda: 7) == 7

    def refuse() -> int:
        raise ConfigError("wrong")

    with pytest.raises(ConfigError, match="wrong"):
        deadline.within(timedelta(seconds=60), refuse)


def test_a_time_out_of_the_work_is_its_own() -> None:
    def time_out() -> int:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        Deadline(timedelta(seconds=60), SystemClock()).within(timedelta(seconds=60), time_out)


def test_work_that_never_ends_is_left_behind() -> None:
    forever = threading.Event()
    with pytest.raises(Unreachable, match="no answer within 0 s"):
        Deadline(timedelta(seconds=60), SystemClock()).within(timedelta(milliseconds=10), forever.wait)
    forever.set()


def test_nothing_is_left_of_a_time_that_is_over() -> None:
    clock = ManualClock()
    deadline = Deadline(timedelta(seconds=2), clock)
    clock.advance(1.5)
    assert deadline.left_seconds == 0.5
    clock.advance(5)
    assert deadline.left_seconds == 0
    forever = threading.Event()
    with pytest.raises(Unreachable):
        deadline.within(timedelta(seconds=60), forever.wait)
    forever.set()
