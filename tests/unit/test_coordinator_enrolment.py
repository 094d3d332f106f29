"""Who may take part, by what the operator did."""

from __future__ import annotations

import dataclasses

import pytest

from coordinator.enrolment import Enrolment, hash_code
from coordinator.records import Action, ActionKind
from coordinator.refused import Refused
from diffusion_at_home.config.trust import EnrolmentMode
from tests.unit.desk import ANNA, BERT, CARL, a_worker

CODE = hash_code("a code")
NOW = 1_000_000


def action(kind: ActionKind, subject: str = ANNA, **more: object) -> Action:
    return dataclasses.replace(Action(1, kind, subject, "", NOW), **more)  # type: ignore[arg-type]


def invitation(uses: int = 1, until_ms: int = 0) -> Action:
    return action(ActionKind.INVITE, CODE, uses=uses, until_ms=until_ms)


def new(enrolment: Enrolment, invite: str = "", now_ms: int = NOW) -> str:
    """Why Anna, who never joined, may not; empty if she may."""
    try:
        enrolment.check_new(ANNA, invite, now_ms)
    except Refused as refused:
        return f"{refused.name}: {refused}"
    return ""


def old(enrolment: Enrolment, now_ms: int = NOW) -> str:
    """Why Anna, who has joined, may not go on; empty if she may."""
    try:
        enrolment.check_old(ANNA, now_ms)
    except Refused as refused:
        return f"{refused.name}: {refused}"
    return ""


def test_anybody_may_join_an_open_run_whatever_code_they_bring() -> None:
    assert new(Enrolment(EnrolmentMode.OPEN)) == new(Enrolment(EnrolmentMode.OPEN), CODE) == ""


@pytest.mark.parametrize(
    ("actions", "brings", "why"),
    [
        ([invitation()], CODE, ""),
        ([invitation()], "", "this run is by invitation"),
        ([invitation()], hash_code("another"), "this invitation is not known here"),
        ([], CODE, "this invitation is not known here"),
        ([invitation(until_ms=NOW)], CODE, "this invitation has run out"),
        ([invitation(until_ms=NOW + 1)], CODE, ""),
        ([invitation(), action(ActionKind.UNINVITE, CODE)], CODE, "this invitation is not known here"),
    ],
)
def test_a_run_by_invitation(actions: list[Action], brings: str, why: str) -> None:
    found = new(Enrolment(EnrolmentMode.INVITE, actions=actions), brings)
    assert found.startswith(f"not_invited: {why}") if why else found == ""


def test_an_invitation_is_for_as_many_as_it_says() -> None:
    came = [dataclasses.replace(a_worker(worker), invite=CODE) for worker in (BERT, CARL)]
    enrolment = Enrolment(EnrolmentMode.INVITE, came[:1], [invitation(uses=2)])
    assert (enrolment.left_of(CODE), new(enrolment, CODE)) == (1, "")
    enrolment.came(came[1])
    assert enrolment.left_of(CODE) == 0
    assert "used by as many as it is for" in new(enrolment, CODE)


def test_those_who_are_being_let_in_count_already() -> None:
    with pytest.raises(Refused, match="used by as many"):
        Enrolment(EnrolmentMode.INVITE, actions=[invitation()]).check_new(ANNA, CODE, NOW, coming=1)


def test_who_was_let_in_once_needs_no_invitation_again() -> None:
    actions = [invitation(), action(ActionKind.UNINVITE, CODE)]
    assert old(Enrolment(EnrolmentMode.INVITE, actions=actions)) == ""


def test_the_list_lets_in_who_is_on_it_and_out_who_was_taken_off() -> None:
    enrolment = Enrolment(EnrolmentMode.ALLOW_LIST)
    assert f"send this id, {ANNA}" in new(enrolment)
    enrolment.hear(action(ActionKind.ALLOW))
    assert new(enrolment) == old(enrolment) == ""
    enrolment.hear(action(ActionKind.DISALLOW))
    assert old(enrolment).startswith("not_invited")


@pytest.mark.parametrize("mode", EnrolmentMode)
def test_a_ban_holds_in_every_mode_until_it_ends_or_is_lifted(mode: EnrolmentMode) -> None:
    actions = [invitation(), action(ActionKind.ALLOW)]
    enrolment = Enrolment(mode, actions=[*actions, action(ActionKind.BAN, note="it copies", until_ms=NOW + 60_000)])
    sentence = "banned: the run's operator has banned this worker until 1970-01-01 00:17 UTC: it copies"
    assert new(enrolment, CODE) == old(enrolment) == sentence
    assert new(enrolment, CODE, NOW + 60_000) == old(enrolment, NOW + 60_000) == ""
    enrolment.hear(action(ActionKind.UNBAN))
    assert old(enrolment) == ""


def test_a_ban_without_an_end_or_a_reason_says_neither() -> None:
    enrolment = Enrolment(EnrolmentMode.OPEN, actions=[action(ActionKind.BAN)])
    assert old(enrolment) == "banned: the run's operator has banned this worker"
    assert [ban.subject for ban in enrolment.bans(NOW)] == [ANNA]
