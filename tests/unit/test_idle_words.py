"""A worker without work is told why: in the coordinator's words, which its owner sees as a claim and no terminal obeys."""

from __future__ import annotations

import pytest

from coordinator.dispatcher import IdleReason
from coordinator.idle_words import MOST, RunNow, why_idle, why_quarantined
from diffusion_at_home.rpc.coordinator_pb2 import Idle
from worker.told import told
from worker.why_idle import why_idle as shown

NOW = RunNow(round_number=12, seconds_to_close=39.2, drain_note="a new disk: back on Monday", total_images=5_000_000)


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        (IdleReason.ROUND_FULL, "round 12 closes in 40 s at the latest"),
        (IdleReason.CLOSING, "version 12 is being made"),
        (IdleReason.DRAINING, "a new disk: back on Monday"),
        (IdleReason.COMPLETE, "it has its 5,000,000 images"),
        (IdleReason.STOPPING, ""),
    ],
)
def test_each_reason_has_its_words(reason: IdleReason, sentence: str) -> None:
    assert why_idle(reason, NOW) == sentence


def test_words_are_bounded_and_say_no_more_than_is_known() -> None:
    assert why_idle(IdleReason.ROUND_FULL, RunNow(12, None, "", 1)) == "round 12"
    assert why_idle(IdleReason.ROUND_FULL, RunNow(12, 601.0, "", 1)) == "round 12 closes in 11 minutes at the latest"
    assert len(why_idle(IdleReason.DRAINING, RunNow(1, None, "x" * 500, 1))) == MOST
    assert why_quarantined(10, 7) == "none for 10 rounds, then again from round 17 on"
    assert why_quarantined(1, 7) == "none for one round, then again from round 8 on"


def test_the_owner_sees_our_reason_first_and_theirs_as_a_claim() -> None:
    idle = Idle(reason=Idle.REASON_DRAINING, sentence=NOW.drain_note)
    assert shown(idle) == 'the operator has paused the run: "a new disk: back on Monday"'
    assert shown(Idle(reason=Idle.REASON_DRAINING)) == "the operator has paused the run"
    assert shown(Idle(reason=77, sentence="trust me")) == 'the coordinator has no work: "trust me"'  # type: ignore[arg-type]


def test_nothing_of_the_other_sides_words_is_obeyed_or_endless() -> None:
    nasty = "\x1b]0;you\x07\x1b[2J\r\n\u202eoperator\u2066 \u200b\x00says\x9b31m   [bold]hi[/bold]"
    assert told(nasty) == "]0;you [2J operator says 31m [bold]hi[/bold]"
    assert told(nasty).isprintable()
    long = told("word " * 100_000)
    assert (len(long), long[-5:]) == (300, "word…")
    assert told("\x1b" * 100_000) == ""
    assert told("as it is") == "as it is"
