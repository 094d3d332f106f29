"""What the demo says of the time it takes."""

from __future__ import annotations

from diffusion_at_home.demo.forecast import Forecast


def test_the_time_is_said_once_as_the_rounds_after_the_first_went() -> None:
    forecast = Forecast()
    said = [forecast.sentence(images, 61_000, now) for images, now in ((0, 5.0), (1_000, 20.0), (2_000, 30.0))]
    assert said == [None, None, None]
    assert forecast.sentence(4_000, 61_000, 50.0) == "about 10 minutes to go, as the first rounds went"
    assert forecast.sentence(8_000, 61_000, 90.0) is None


def test_nothing_is_said_of_less_than_a_minute() -> None:
    forecast = Forecast()
    forecast.sentence(1_000, 61_000, 0.0)
    assert forecast.sentence(60_000, 61_000, 40.0) is None
