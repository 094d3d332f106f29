"""Weekly hours: every minute of a week, the nights in which the clock is put forward and back, and what is refused."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from diffusion_at_home.clock import ManualClock
from tests.unit.fake_machine import BERLIN, ManualWall, settings
from worker.conditions.hindrance import IdleReason
from worker.conditions.hours import Hours
from worker.conditions.weekly_hours import weekly_hours

NIGHTS = ("mon-fri 18:00-08:00", "sat,sun 00:00-24:00")


def in_words(now: datetime) -> bool:
    """Whether NIGHTS are open: as one would say it."""
    evening, morning, weekend = now.hour >= 18, now.hour < 8, now.weekday() >= 5
    after_a_workday = now.weekday() in {1, 2, 3, 4, 5}
    return weekend or evening or (morning and after_a_workday)


def test_every_minute_of_a_week_is_in_the_right_state_and_knows_when_that_ends() -> None:
    clock = ManualClock()
    wall = ManualWall(clock, 2026, 11, 23)
    rule, by = Hours(wall), settings(when={"hours": NIGHTS})
    minutes = 7 * 24 * 60
    start = datetime(2026, 11, 23, tzinfo=BERLIN)
    closed = 0
    for minute in range(minutes):
        now = start + timedelta(minutes=minute)
        hindrance = rule.hindrance(by)
        assert (hindrance is None) == in_words(now), now
        if hindrance is not None:
            assert hindrance.reason is IdleReason.HOURS
            # every workday is closed from 8 to 18, and Monday from midnight on: its early hours belong to no evening
            assert hindrance.until == now.replace(hour=18, minute=0), now
            closed += 1
        clock.advance(60)
    assert closed == (5 * 10 + 8) * 60


def test_it_works_again_in_the_second_that_it_said() -> None:
    clock = ManualClock()
    wall = ManualWall(clock, 2026, 11, 27, 17, 59)
    rule, by = Hours(wall), settings(when={"hours": NIGHTS})
    clock.advance(59.5)
    hindrance = rule.hindrance(by)
    assert hindrance is not None
    assert hindrance.sentence == "it is outside the hours of when.hours: it works again at 18:00"
    clock.advance(0.5)
    assert rule.hindrance(by) is None


def test_a_wall_clock_that_is_set_finds_other_hours_at_once() -> None:
    wall = ManualWall(ManualClock(), 2026, 11, 27, 12)
    rule, by = Hours(wall), settings(when={"hours": NIGHTS})
    assert rule.hindrance(by) is not None
    wall.put(days=-1)
    hindrance = rule.hindrance(by)
    assert hindrance is not None
    assert hindrance.until == datetime(2026, 11, 26, 18, tzinfo=BERLIN)
    wall.put(days=1, hours=6)
    assert rule.hindrance(by) is None


def stretches(start: tuple[int, ...], hours: int, *ranges: str) -> list[tuple[str, bool]]:
    """When it changes between open and closed, by the clock on the wall, with its distance from UTC."""
    clock = ManualClock()
    wall = ManualWall(clock, *start)
    rule, by = Hours(wall), settings(when={"hours": ranges})
    found: list[tuple[str, bool]] = []
    until = None
    for _ in range(hours * 60):
        hindrance, now = rule.hindrance(by), wall.local(wall.now())
        if not found or found[-1][1] != (hindrance is None):
            found.append((f"{now:%H:%M%z}", hindrance is None))
            assert until is None or (hindrance is None and until == now)  # as it was said before
            until = hindrance and hindrance.until
        clock.advance(60)
    return found


def test_the_night_in_which_the_clock_is_put_forward() -> None:
    assert stretches((2026, 3, 28, 22), 10, "sat 23:00-05:00") == [
        ("22:00+0100", False),
        ("23:00+0100", True),
        ("05:00+0200", False),
    ]
    # 02:30 is shown by no clock: what begins then is open from 03:00 on, which is the next minute
    assert stretches((2026, 3, 29, 0), 6, "sun 02:30-04:00") == [
        ("00:00+0100", False),
        ("03:00+0200", True),
        ("04:00+0200", False),
    ]


def test_a_range_that_the_clock_skips_comes_a_week_later() -> None:
    clock = ManualClock()
    hindrance = Hours(ManualWall(clock, 2026, 3, 29, 1)).hindrance(settings(when={"hours": ["sun 02:15-02:45"]}))
    assert hindrance is not None
    assert hindrance.until == datetime(2026, 4, 5, 2, 15, tzinfo=BERLIN)
    assert hindrance.sentence.endswith("works again at 5 April")


def test_the_night_in_which_the_clock_is_put_back() -> None:
    assert stretches((2026, 10, 25, 0), 6, "sun 02:15-02:45") == [
        ("00:00+0200", False),
        ("02:15+0200", True),
        ("02:45+0200", False),
        ("02:15+0100", True),
        ("02:45+0100", False),
    ]
    assert stretches((2026, 10, 24, 22), 11, "sat 23:00-05:00") == [
        ("22:00+0200", False),
        ("23:00+0200", True),
        ("05:00+0100", False),
    ]


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 1439), st.integers(1, 1440), st.integers(0, 7 * 1440 - 1))
def test_a_range_holds_its_days_and_minutes_and_no_others(
    first: int, last: int, begin: int, end: int, minute: int
) -> None:
    assume(begin != end)
    names = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    text = f"{names[first]}-{names[last]} {begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    days = {(first + day) % 7 for day in range((last - first) % 7 + 1)}
    length = end - begin if end > begin else end - begin + 1440
    inside = any((minute - day * 1440 - begin) % (7 * 1440) < length for day in days)
    moment = datetime(2026, 11, 23, tzinfo=BERLIN) + timedelta(minutes=minute)
    assert weekly_hours((text,)).open_at(moment) == inside


def test_no_ranges_are_always_and_a_range_without_days_is_every_day() -> None:
    noon = datetime(2026, 11, 27, 12, tzinfo=BERLIN)
    assert weekly_hours(()).open_at(noon)
    assert weekly_hours(("11:00-13:00",)).open_at(noon)
    assert weekly_hours(("Fri, sun 11:30 - 12:30",)).open_at(noon)
    assert not weekly_hours(("12:01-12:00",)).open_at(noon)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("at night", "'at night' is no range of hours: write it like"),
        ("mon 18-08", "is no range of hours"),
        ("mon-fry 18:00-08:00", "names the day 'fry': days are mon, tue"),
        ("mon, 18:00-08:00", "names the day ''"),
        ("mon 18:60-19:00", "names 18:60, which no clock shows"),
        ("mon 18:00-24:01", "names 24:01, which no clock shows"),
        ("mon 08:00-08:00", "holds no time"),
        ("mon 24:00-08:00", "holds no time"),
    ],
)
def test_what_is_no_range_is_refused_with_a_sentence(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        weekly_hours((text,))
