import time
from datetime import timedelta
from pathlib import Path

import pytest

from worker.join_stamp import JoinStamp
from worker.state_folder import StateFolder

YEAR_MS = 365 * 86_400_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def test_each_stamp_is_later_than_the_last_also_within_a_millisecond_and_over_a_restart(tmp_path: Path) -> None:
    stamps = [stamp for _ in range(3) for stamp in _three(JoinStamp(tmp_path / "last"))]
    assert stamps == sorted(set(stamps))


def test_stamp_is_the_time_where_the_clock_is_right(tmp_path: Path) -> None:
    before = now_ms()
    assert before <= JoinStamp(tmp_path / "last").next_ms() <= now_ms()


def test_clock_that_was_ahead_is_followed_by_one_more(tmp_path: Path) -> None:
    (tmp_path / "last").write_text(str(now_ms() + YEAR_MS))
    first, second, third = _three(JoinStamp(tmp_path / "last"))
    assert first > now_ms() + YEAR_MS - 60_000
    assert (second, third) == (first + 1, first + 2)


@pytest.mark.parametrize("damage", [b"", b"x", b"-5", b"9" * 400, b"\xff\xfe", "²".encode()])
def test_damaged_memory_is_none(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "last").write_bytes(damage)
    assert JoinStamp(tmp_path / "last").next_ms() <= now_ms()


def _three(stamp: JoinStamp) -> list[int]:
    return [stamp.next_ms() for _ in range(3)]


def test_run_that_was_joined_last_is_the_last_one_whatever_the_clock_said_before(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    joined = folder.remember("first-00000000", "", ["http://a"])
    tomorrow = joined.model_copy(update={"joined_at": joined.joined_at + timedelta(days=1)})
    (tmp_path / "runs" / "first-00000000.json").write_text(tomorrow.model_dump_json())
    folder.remember("second-00000000", "", ["http://b"])
    assert [run.run_id for run in folder.joined_runs()] == ["second-00000000", "first-00000000"]
