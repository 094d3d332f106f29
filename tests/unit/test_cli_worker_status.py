"""`dah worker status` reads well: times as people say them, once, and nothing that there is not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from diffusion_at_home.cli.worker_status import paused_lines, span, status_lines
from worker.conditions.hindrance import IdleReason
from worker.progress import Status, WorkerState

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def status(state: WorkerState = WorkerState.TRAINING, **facts: object) -> Status:
    return Status.model_validate({"pid": 7, "state": state, "updated_at": NOW - timedelta(seconds=3), **facts})


def test_a_pause_is_told_once_with_its_end_and_what_is_left() -> None:
    until = NOW + timedelta(hours=1, minutes=25)
    sentence = "you have paused it until 14:25: dah worker resume goes on at once"
    found = status(WorkerState.PAUSED, reason=sentence, idle_reason=IdleReason.PAUSED_FOR, until=until)
    lines = status_lines(found, wish="paused", paused_until=until, now=NOW)
    assert lines == {
        "running": True,
        "state": "paused",
        "because": sentence,
        "until": "today 14:25, in 1 h 25 min",
        "handed in": "0 images in 0 leases since it was started",
        "last change": "3 s ago",
    }


def test_a_rule_of_the_owners_has_its_end_too() -> None:
    until = NOW + timedelta(hours=19)
    found = status(WorkerState.PAUSED, reason="it works from 08:00 on", idle_reason=IdleReason.HOURS, until=until)
    assert status_lines(found, wish="running", paused_until=None, now=NOW)["until"] == "tomorrow 08:00, in 19 h"
    later = status_lines(found, wish="running", paused_until=None, now=NOW - timedelta(days=7))["until"]
    assert later == "Sun 29 Nov 2026 08:00, in 7 d 19 h"
    finishing = status_lines(found, wish="finishing", paused_until=None, now=NOW)
    assert finishing["you want"] == "that it ends after the lease at hand"


def test_work_is_told_in_words_and_units() -> None:
    found = status(
        reason="version 12",
        run_id="digits-1",
        version=12,
        lease_images=1536,
        lease_quota_images=4000,
        loss=0.03121,
        images_per_second=210.4,
        images_total=50_000,
        leases_done=12,
        refusals={"round_closed": 2},
        seconds={"training": 7380.2, "waiting": 61.0},
        bytes_up=1_200_000,
        bytes_down=3_400_000,
    )
    lines = status_lines(found, wish="running", paused_until=None, now=NOW)
    assert lines["lease"] == "1,536 of 4,000 images on version 12, loss 0.0312"
    assert lines["speed"] == "210 images a second"
    assert lines["handed in"] == "50,000 images in 12 leases since it was started"
    assert lines["came to nothing"] == "round closed: 2"
    assert lines["time spent"] == "training 2 h 3 min, waiting 1 min 1 s"
    assert lines["line"] == "1.2 MB up, 3.4 MB down"
    assert not {"did not count", "until", "you want", "worker"} & set(lines)


def test_one_that_does_not_run_says_how_it_ended_and_how_the_next_one_starts() -> None:
    ended = status_lines(status(WorkerState.STOPPED, reason="asked"), wish=None, paused_until=None, now=NOW)
    assert (ended["running"], ended["state"], ended["because"]) == (False, "stopped", "asked")
    killed = status_lines(status(reason="version 3"), wish=None, paused_until=None, now=NOW)
    assert (killed["state"], killed["it was"]) == ("ended without a word", "training: version 3")
    assert paused_lines(None, NOW) == {"next start": "it is paused until dah worker resume"}
    assert paused_lines(NOW + timedelta(minutes=5), NOW)["until"] == "today 13:05, in 5 min"


@pytest.mark.parametrize(
    ("seconds", "words"), [(-1, "0 s"), (59.4, "59 s"), (60, "1 min"), (3600, "1 h"), (90_061, "1 d 1 h")]
)
def test_times_have_two_units_at_most(seconds: float, words: str) -> None:
    assert span(seconds) == words
