"""Progress in lines."""

from __future__ import annotations

from diffusion_at_home.cli.calm import Calm


def test_a_line_comes_every_ten_seconds_with_the_time_that_is_left() -> None:
    calm = Calm(100.0)
    assert calm.line(1, 1000, "loss 2.0", 101.0) is None
    assert calm.line(10, 1000, "loss 1.0", 110.0) == "1%, loss 1.0, 16 minutes to go"
    assert calm.line(11, 1000, "loss 1.0", 111.0) is None
    assert calm.line(500, 1000, "", 120.0) == "50%, 20 seconds to go"


def test_the_time_is_told_by_the_last_half_minute_for_what_goes_on_begins_with_what_is_there() -> None:
    calm = Calm(0.0)
    lines = [calm.line(900 + second, 1000, "", float(second)) for second in range(1, 61)]
    assert lines[9] == "91%, 1 seconds to go"
    assert lines[59] == "96%, 40 seconds to go"


def test_no_time_is_told_while_nothing_happens() -> None:
    assert Calm(0.0).line(0, 10, "", 10.0) == "0%"
