from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from diffusion_at_home.errors import ConfigError
from worker.control.event_log import coming_lines, last_lines, readable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "worker.log"
    path.with_name("worker.log.1").write_text("one\ntwo\n")
    path.write_text("three\nfour\nhalf a li")
    return path


def test_the_last_lines_reach_back_into_the_file_before(path: Path) -> None:
    assert last_lines(path, 3) == ["two\n", "three\n", "four\n"]
    assert last_lines(path, 0) == []


def test_no_log_yet_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="start one with dah worker run"):
        last_lines(tmp_path / "worker.log", 3)


def test_what_comes_is_followed_into_the_next_file(path: Path) -> None:
    ended = threading.Event()
    coming = coming_lines(path, ended)
    found: list[str] = []

    def collect() -> None:
        for line in coming:
            found.append(line)
            if line == "last\n":
                ended.set()

    path.write_text("")
    first = threading.Thread(target=collect)
    first.start()
    ended.wait(0.1)
    with path.open("a") as file:
        file.write("in two ")
        file.flush()
        ended.wait(0.1)
        file.write("parts\n")
    path.replace(path.with_name("worker.log.1"))
    path.write_text("in the next\nlast\n")
    first.join(10)
    assert found == ["in two parts\n", "in the next\n", "last\n"]


def test_an_event_is_one_line_for_people() -> None:
    event = {"timestamp": "2026-11-28T12:00:00.123Z", "level": "warning", "event": "lease_lost", "lease": 5, "x": None}
    assert readable(json.dumps(event)).endswith(" warning: lease lost lease=5")
    for rubbish in ("[]", "{}", "no event", "[" * 10_000):
        assert readable(rubbish + "\n") == rubbish
