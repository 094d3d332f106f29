"""How long the disk will do, by what came of late."""

from __future__ import annotations

import pytest

from coordinator.records import Totals, Version
from coordinator.retention import Holdings, KeptCheckpoint
from coordinator.storage_forecast import GIB, Growth, first_to_go, forecast, growth

HOUR_MS = 3_600_000
NOW_MS = 100 * 24 * HOUR_MS
TOTALS = Totals(9, 3, uplink_bytes=3000, downlink_bytes=1000, joined=3, active_leases=0)


def version(number: int, images: int, hours_ago: float, back_to: int | None = None) -> Version:
    return Version(number, images, "d" * 64, "u" * 64, 1, "", 0, int(NOW_MS - hours_ago * HOUR_MS), back_to)


def holdings(total_bytes: int = 10 * GIB, **fields: object) -> Holdings:
    facts: dict[str, object] = {"newest": 9, "saved": 9, "state_bytes": 4, "anchor": 0, "anchor_bytes": 0}
    return Holdings(total_bytes=total_bytes, oldest_snapshot=0, **(facts | fields))  # type: ignore[arg-type]


def test_the_pace_is_that_of_the_last_day_and_the_weight_of_an_image_that_of_the_whole_run() -> None:
    history = [version(0, 0, 240), version(1, 1000, 200), version(2, 1500, 12), version(3, 2000, 1)]
    found = growth(history, TOTALS, 4000, NOW_MS)
    assert found == Growth(images_per_day=1000, bytes_per_image=4.0)


def test_what_was_undone_came_all_the_same() -> None:
    history = [version(0, 0, 24), version(1, 500, 20), version(2, 1000, 10), version(3, 500, 5, back_to=1)]
    assert growth(history, TOTALS, 0, NOW_MS) == Growth(images_per_day=1000, bytes_per_image=4.0)


@pytest.mark.parametrize("history", [[version(0, 0, 100)], [version(0, 0, 0.1), version(1, 10, 0.05)]])
def test_a_run_that_is_too_young_tells_nothing(history: list[Version]) -> None:
    assert growth(history, TOTALS, 0, NOW_MS) is None
    found = forecast(holdings(), quota_bytes=0, free_bytes=90 * GIB, grows=None, images_left=10)
    assert (found.days_to_full, found.days_to_end, found.needed_bytes, found.warning) == (None, None, None, "")


def test_a_disk_that_is_full_before_the_end_says_so_in_time() -> None:
    grows = Growth(images_per_day=1000, bytes_per_image=GIB / 1000)
    found = forecast(holdings(), quota_bytes=0, free_bytes=2 * GIB, grows=grows, images_left=10_000)
    assert (found.days_to_full, found.days_to_end, found.needed_bytes) == (2.0, 10.0, 10 * GIB)
    assert "full in 2.0 days" in found.warning
    enough = forecast(holdings(), quota_bytes=0, free_bytes=20 * GIB, grows=grows, images_left=10_000)
    assert (enough.days_to_full, enough.warning) == (None, "")


def test_a_quota_bounds_what_is_needed_and_is_foretold() -> None:
    grows = Growth(images_per_day=1000, bytes_per_image=GIB / 1000)
    found = forecast(holdings(), quota_bytes=14 * GIB, free_bytes=5 * GIB, grows=grows, images_left=10_000)
    assert (found.days_to_quota, found.needed_bytes, found.days_to_full) == (4.0, 4 * GIB, None)
    assert found.warning == ""
    for words in ("10.00 GiB used", "1.00 GiB more a day", "4.00 GiB more until the end", "14.00 GiB in 4.0 days"):
        assert words in found.sentence


def test_a_run_that_stands_still_fills_nothing() -> None:
    found = forecast(holdings(), quota_bytes=0, free_bytes=5 * GIB, grows=Growth(0.0, 4.0), images_left=10)
    assert (found.days_to_end, found.days_to_full) == (None, None)


def test_less_than_a_gib_is_little_whatever_the_pace() -> None:
    assert (
        "only 0.50 GiB" in forecast(holdings(), quota_bytes=0, free_bytes=GIB // 2, grows=None, images_left=0).warning
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"damaged": {"state-3": 5}, "updates": {1: 5}, "oldest_snapshot": 4}, "damaged/: state-3"),
        ({"states": {7: 5}}, "older saved state, of version 7"),
        ({"contributions": {10: 5}}, "contributions, once"),
        ({"checkpoints": [KeptCheckpoint(f"c-{n}", n, 5, 1.0 / n) for n in (1, 2, 3)]}, "checkpoint c-2"),
        ({}, "nothing: all"),
    ],
)
def test_what_goes_first_is_what_retention_would_take(fields: dict[str, object], words: str) -> None:
    found = Holdings(
        **(
            {
                "total_bytes": 100,
                "newest": 9,
                "saved": 9,
                "state_bytes": 4,
                "anchor": 0,
                "anchor_bytes": 0,
                "oldest_snapshot": 0,
            }
            | fields
        )
    )  # type: ignore[arg-type]
    assert words in first_to_go(found, 1000)


def test_without_a_quota_nothing_goes() -> None:
    assert first_to_go(holdings(), 0) == "nothing is deleted: there is no quota"
