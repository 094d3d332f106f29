"""An event is one JSON object in the file and one line for people, with the same name and fields."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffusion_at_home import events


@pytest.fixture(autouse=True)
def quiet_afterwards() -> Iterator[None]:
    yield
    events.configure(None, None)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_an_event_is_one_object_a_line(tmp_path: Path) -> None:
    events.configure(tmp_path / "log", terminal=None)
    events.logger("rounds").info("round_closed", round=3, images=2400, name="a\nb é")
    (event,) = lines(tmp_path / "log")
    assert event.pop("timestamp")
    assert event == {"event": "round_closed", "level": "info", "round": 3, "images": 2400, "name": "a\nb é"}


def test_people_see_the_same_on_one_line(tmp_path: Path) -> None:
    terminal = io.StringIO()
    events.configure(tmp_path / "log", terminal)
    events.logger("rounds").info("round_closed", round=3, name="a\nb")
    assert terminal.getvalue().count("\n") == 1
    assert "round_closed" in terminal.getvalue()
    assert "round=3" in terminal.getvalue()


def test_a_failure_keeps_its_traceback_in_one_object(tmp_path: Path) -> None:
    events.configure(tmp_path / "log", terminal=None)
    try:
        raise ValueError("why")
    except ValueError:
        events.logger("rounds").exception("task_died")
    (event,) = lines(tmp_path / "log")
    assert "ValueError: why" in str(event["exception"])


def test_events_below_the_level_are_dropped(tmp_path: Path) -> None:
    events.configure(tmp_path / "log", terminal=None, level=logging.WARNING)
    events.logger("rounds").info("too_quiet")
    events.logger("rounds").warning("loud_enough")
    assert [event["event"] for event in lines(tmp_path / "log")] == ["loud_enough"]


def test_configuring_again_lets_go_of_the_old_file_and_appends_to_the_new(tmp_path: Path) -> None:
    log = events.logger("rounds")
    for name in ("first", "second", "first"):
        events.configure(tmp_path / name, terminal=None)
        log.info("started")
    assert [len(lines(tmp_path / name)) for name in ("first", "second")] == [2, 1]


def test_log_never_grows_beyond_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_FILE_BYTES", 2000)
    events.configure(tmp_path / "log", terminal=None)
    log = events.logger("rounds")
    for number in range(500):
        log.info("round_closed", round=number)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["log", "log.1", "log.2", "log.3"]
    assert all((tmp_path / name).stat().st_size <= 2000 for name in files)
    assert lines(tmp_path / "log")[-1]["round"] == 499


def test_without_file_and_terminal_nothing_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    events.configure(None, None)
    events.logger("rounds").error("unheard")
    assert capfd.readouterr() == ("", "")
