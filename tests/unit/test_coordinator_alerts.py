"""What an operator is told of, how often, and that the webhook's address stays a secret."""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.alerts.alert import Alert, AlertKind, message
from coordinator.alerts.messenger import Messenger, Outbox, Pace
from coordinator.alerts.news import Facts, News
from coordinator.alerts.post import post
from coordinator.alerts.target import Target, parse_target, read_target, write_target
from coordinator.problems import ALERTS_FAILED, Problem
from coordinator.records import Action, ActionKind, Version
from diffusion_at_home.clock import ManualClock, SystemClock
from diffusion_at_home.errors import ConfigError, RetryCall, Unreachable
from tests.unit.webhook import webhook

FULL = Problem("storage_full", "no space left: free some", 1)
NOTHING = Facts(problems=())


def news(*, complete: bool = False, silence_seconds: float = 60.0) -> News:
    return News(complete=complete, silence_seconds=silence_seconds, now=0.0)


def kinds(alerts: Sequence[Alert]) -> list[AlertKind]:
    return [alert.kind for alert in alerts]


def alert(key: str, kind: AlertKind = AlertKind.PROBLEM, sentence: str = "something") -> Alert:
    return Alert(key, kind, sentence, 1000)


def rolled_back(number: int, to: int) -> Version:
    return Version(number, 8, "d" * 64, "", 0, "s" * 64, 1, 1, back_to=to, action_id=1)


# -- what is new ------------------------------------------------------------------------------------------------


def test_a_problem_is_told_when_it_comes_and_when_it_goes_and_not_in_between() -> None:
    told = news()
    assert kinds(told.look(Facts((FULL,)), 1, 1)) == [AlertKind.PROBLEM]
    assert told.look(Facts((replace(FULL, sentence="still none"),)), 2, 2) == []
    assert kinds(told.look(NOTHING, 3, 3)) == [AlertKind.PROBLEM_GONE]
    assert told.look(NOTHING, 4, 4) == []


def test_that_nobody_can_be_told_is_told_nobody() -> None:
    assert news().look(Facts((Problem(ALERTS_FAILED, "it answers 404", 1),)), 1, 1) == []


def test_the_gate_and_a_rollback_are_told() -> None:
    gate = Action(1, ActionKind.ROLLBACK, "3", "by the gate: held-out loss of version 5 is 9", 1)
    ordered = Action(2, ActionKind.ROLLBACK, "3", "by hand", 1)
    found = news().look(Facts((), versions=[rolled_back(6, 3)], actions=[gate, ordered]), 1, 1)
    assert kinds(found) == [AlertKind.GATE, AlertKind.ROLLBACK]
    assert found[0].sentence == "held-out loss of version 5 is 9"
    assert "version 6 is version 3 again" in found[1].sentence


def test_silence_is_told_once_and_that_it_ended() -> None:
    told, silent = news(), replace(NOTHING, heard=False)
    assert told.look(silent, 59, 1) == []
    assert kinds(told.look(silent, 60, 1)) == [AlertKind.SILENT]
    assert told.look(silent, 600, 1) == []
    assert kinds(told.look(NOTHING, 601, 1)) == [AlertKind.HEARD]
    assert told.look(silent, 650, 1) == []


@pytest.mark.parametrize("why", [{"resting": True}, {"complete": True}])
def test_nobody_need_be_there_while_a_run_rests_or_is_complete(why: dict[str, bool]) -> None:
    told = news(complete=True)
    assert told.look(replace(NOTHING, heard=False, **why), 1000, 1) == []


def test_no_silence_is_told_where_none_is_wanted() -> None:
    assert news(silence_seconds=0.0).look(replace(NOTHING, heard=False), 10_000, 1) == []


def test_the_end_is_told_once_and_not_again_after_a_restart() -> None:
    told, complete = news(), replace(NOTHING, complete=True)
    assert kinds(told.look(complete, 1, 1)) == [AlertKind.COMPLETE]
    assert told.look(complete, 2, 1) == []
    assert news(complete=True).look(complete, 1, 1) == []


# -- how it is written ------------------------------------------------------------------------------------------


def test_a_message_is_read_by_each_service_and_calls_nobody() -> None:
    body = json.loads(message("digits", "https://host/#pin", [alert("a", sentence="<!channel> @everyone & more")], 2))
    assert body["content"].splitlines() == [
        "digits: 2 older messages were too many to keep",
        "[!] digits: <!channel> @everyone & more",
    ]
    assert "&lt;!channel&gt; @everyone &amp; more" in body["text"]
    assert body["allowed_mentions"] == {"parse": []}
    assert body["alerts"] == [
        {
            "kind": "problem",
            "about": "a",
            "sentence": "<!channel> @everyone & more",
            "at": "1970-01-01T00:00:01+00:00",
        }
    ]


def test_a_message_is_never_longer_than_discord_takes() -> None:
    many = [alert(str(number), sentence="x" * 200) for number in range(50)]
    assert len(json.loads(message("digits", "", many))["content"]) <= 2000


# -- where it goes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["", "ftp://a/b", "http://example.org/x", "https:///x", "https://a b/", "https://a:x/", "https://a/#b", "a\nb"],
)
def test_what_is_no_webhook_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_target(url, 30.0)
    assert not url or url not in str(error.value)


def test_the_address_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "alerts.json"
    assert read_target(path) is None
    target = parse_target(" https://hooks.example.org/T0/secret\n", 5.0)
    write_target(path, target)
    assert read_target(path) == target
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert target.host == "hooks.example.org"
    path.write_text("{")
    with pytest.raises(ConfigError, match="set it anew"):
        read_target(path)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (302, ConfigError, "points elsewhere"),
        (404, ConfigError, "refuses"),
        (429, RetryCall, "429"),
        (503, RetryCall, "503"),
    ],
)
def test_an_answer_says_whether_to_try_again_and_a_redirect_is_not_followed(
    status: int, kind: type[Exception], words: str
) -> None:
    with webhook(status) as hook, pytest.raises(kind, match=words) as error:
        post(Target(hook.url), message("digits", "", [alert("a")]))
    assert "secret-path" not in str(error.value)
    assert hook.bodies == []


def test_nobody_there_is_tried_again() -> None:
    with webhook() as hook:
        pass
    with pytest.raises(Unreachable, match="does not answer") as error:
        post(Target(hook.url), b"{}")
    assert "secret-path" not in str(error.value)


# -- when it goes -----------------------------------------------------------------------------------------------


def test_of_each_thing_the_latest_waits_and_not_too_many() -> None:
    outbox = Outbox()
    outbox.add([alert("a"), alert("b"), alert("a", AlertKind.PROBLEM_GONE)])
    waiting, lost = outbox.waiting()
    assert [(one.key, one.kind) for one in waiting] == [("b", AlertKind.PROBLEM), ("a", AlertKind.PROBLEM_GONE)]
    outbox.add([alert("b", AlertKind.PROBLEM_GONE)])
    outbox.sent(waiting, lost)
    assert [one.kind for one in outbox.waiting()[0]] == [AlertKind.PROBLEM_GONE]
    outbox.add([alert(str(number)) for number in range(70)])
    waiting, lost = outbox.waiting()
    assert (len(waiting), lost, waiting[-1].key) == (50, 21, "69")


def test_a_few_go_at_once_and_then_one_a_minute() -> None:
    clock = ManualClock(0.0)
    pace = Pace(clock)
    for _ in range(5):
        assert pace.wait_seconds() == 0
        pace.went()
    assert pace.wait_seconds() == pytest.approx(60)
    clock.advance(60)
    assert pace.wait_seconds() == pytest.approx(0)


class Post:
    """Fails as often as it is told to."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.sent: list[list[str]] = []
        self.done = threading.Event()
        self.why_not: list[str] = []

    def send(self, alerts: Sequence[Alert], lost: int) -> None:
        assert lost == 0
        if self.errors:
            raise self.errors.pop(0)
        self.sent.append([one.key for one in alerts])

    def outcome(self, why_not: str) -> None:
        self.why_not.append(why_not)
        self.done.set()

    def messenger(self) -> Messenger:
        made = Messenger(send=self.send, outcome=self.outcome, clock=SystemClock())
        made.start()
        return made


def test_what_did_not_go_through_is_tried_again_and_what_never_will_is_given_up() -> None:
    post = Post(RetryCall("503"))
    messenger = post.messenger()
    messenger.tell([alert("a")])
    assert post.done.wait(10)
    assert (post.sent, post.why_not) == ([["a"]], [""])
    post.done.clear()
    post.errors.append(ConfigError("it answers 404"))
    messenger.tell([alert("b")])
    assert post.done.wait(10)
    messenger.stop(1.0)
    assert (post.sent, post.why_not) == ([["a"]], ["", "it answers 404"])


def test_a_stop_waits_for_no_webhook() -> None:
    begun, never = threading.Event(), threading.Event()

    def hang(alerts: Sequence[Alert], lost: int) -> None:  # noqa: ARG001
        begun.set()
        never.wait()

    messenger = Messenger(send=hang, outcome=list[str]().append, clock=SystemClock())
    messenger.start()
    messenger.tell([alert("a")])
    assert begun.wait(10)
    messenger.stop(0.05)
    assert not never.is_set(), "it came back all the same"
    never.set()
