"""Invitations, the list, bans and revoked sessions, on a real coordinator that is told while it runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from coordinator.orders import Orders, orders
from coordinator.run_folder import RunFolder
from diffusion_at_home.errors import ConfigError, ShutOut
from diffusion_at_home.tls import invite_of, split_pin
from tests.integration.daemon_here import work_here
from tests.integration.live_run import DEADLINE_SECONDS, LiveRun, Volunteer, encoded, refusal, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder
from worker.loop import Goal

QUIET = ("evaluation.every_images=100000", "checkpoint.every_images=100000", "lease.probe_steps=1", "lease.min_steps=1")
BY_INVITATION = (*QUIET, "enrolment.mode='invite'")
BY_LIST = (*QUIET, "enrolment.mode='allow_list'")
NOT_INVITED = (grpc.StatusCode.PERMISSION_DENIED, "REFUSAL_NOT_INVITED")
BANNED = (grpc.StatusCode.PERMISSION_DENIED, "REFUSAL_BANNED")
UNKNOWN = (grpc.StatusCode.UNAUTHENTICATED, "REFUSAL_UNKNOWN_SESSION")


def refused(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return refusal(raised.value)


def soon(fact: Callable[[], bool]) -> None:
    """Wait for the coordinator to have heard."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not fact():
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)


def is_heard(run: LiveRun, number: int) -> None:
    soon(lambda: run.status()["live"]["actions"] >= number)


def join(volunteer: Volunteer, **fields: Any) -> None:
    volunteer.token = volunteer.stub.Join(volunteer.join_request(**fields), timeout=DEADLINE_SECONDS).session_token


@contextmanager
def telling(run: LiveRun) -> Any:
    """Orders of an operator, beside the coordinator that serves; heard when the block is left."""
    (run.folder.root / "address").write_text(run.address)
    with orders(run.folder) as given:
        yield given
        number = len(given.state()["actions"])
    is_heard(run, number)


def invite(run: LiveRun, **terms: Any) -> str:
    """The code."""
    with telling(run) as operator:
        made = operator.invite(**({"uses": 1, "days": 1.0, "note": ""} | terms))
    assert split_pin(made.address) == split_pin(run.address)
    return invite_of(made.address)


def test_an_invitation_lets_one_in_who_then_needs_none(tmp_path: Path) -> None:
    with serving(tiny_run_folder(tmp_path, *BY_INVITATION)) as run:
        anna, bert = Volunteer(run), Volunteer(run)
        code = invite(run)
        for brings in ({}, {"invite": "no such code"}):
            assert refused(lambda brings=brings: join(anna, **brings)) == NOT_INVITED  # type: ignore[misc]
        join(anna, invite=code)
        assert refused(lambda: join(bert, invite=code)) == NOT_INVITED
        join(anna)
        anna.lease()
        code = invite(run, uses=2)
        with telling(run) as operator:
            name = operator.state()["invites"][-1]["invite"]
            operator.uninvite(name)
        assert refused(lambda: join(bert, invite=code)) == NOT_INVITED
        kept = b"".join(path.read_bytes() for path in run.folder.root.glob("ledger*"))
        assert b"uninvite" in kept
        assert code.encode() not in kept


def test_two_at_once_do_not_share_an_invitation_for_one(tmp_path: Path) -> None:
    with serving(tiny_run_folder(tmp_path, *BY_INVITATION)) as run:
        code, both = invite(run), [Volunteer(run) for _ in range(8)]
        calls = [one.stub.Join.future(one.join_request(invite=code), timeout=DEADLINE_SECONDS) for one in both]
        outcomes = [call.exception() for call in calls]
        assert sum(outcome is None for outcome in outcomes) == 1
        assert {refusal(outcome) for outcome in outcomes if outcome is not None} == {NOT_INVITED}


def test_an_open_run_asks_for_no_code_and_says_so_to_its_operator(tmp_path: Path) -> None:
    with serving(tiny_run_folder(tmp_path, *QUIET)) as run, volunteers(run, 1) as (anna,):
        anna.lease()
        with pytest.raises(ConfigError, match="an invitation changes nothing"), telling(run) as operator:
            operator.invite(uses=1, days=0.0, note="")


def test_a_list_lets_in_who_is_on_it_also_after_a_restart(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *BY_LIST)
    with serving(folder) as run:
        anna, bert = Volunteer(run), Volunteer(run)
        assert refused(lambda: join(anna)) == NOT_INVITED
        with telling(run) as operator:
            operator.allow(anna.identity.worker_id, "a friend")
        join(anna)
        assert refused(lambda: join(bert)) == NOT_INVITED
    with serving(folder) as run:
        again = Volunteer(run)
        again.identity, again.token = anna.identity, anna.token
        lease = again.lease()
        with telling(run) as operator:
            operator.disallow(anna.identity.worker_id, "")
        assert refused(lambda: again.beat(lease.lease_id)) == NOT_INVITED
        assert run.status()["active_leases"] == 0  # its data is somebody else's at once


@pytest.mark.parametrize("screening", ["true", "false"])
def test_a_ban_takes_effect_at_once_and_undoes_the_open_round(tmp_path: Path, screening: str) -> None:
    rounds = ("round.images=16", "lease.max_steps=1", f"screening.enabled={screening}")
    folder = tiny_run_folder(tmp_path, *QUIET, *rounds)
    with serving(folder) as run, volunteers(run, 2) as (anna, bert):
        given = anna.lease()
        anna.submit(given, encoded(run, 0.01))
        held = anna.lease()
        with telling(run) as operator:
            operator.ban(anna.identity.worker_id, days=0.0, note="it hands in what it did not train")
        call = lambda: anna.beat(held.lease_id)  # noqa: E731
        with pytest.raises(grpc.RpcError, match="it hands in what it did not train"):
            call()
        assert refused(call) == refused(anna.lease) == refused(lambda: join(anna)) == BANNED
        for _ in range(2):
            bert.submit(bert.lease(), encoded(run, 0.02))
            if run.status()["version"]:
                break
        status = run.wait_for_version(1)
        assert (status["images"], status["left_out"]) == (8, {"banned": 1})
        with telling(run) as operator:
            operator.unban(anna.identity.worker_id)
        anna.lease()


def test_a_revoked_session_ends_for_good_and_its_key_opens_another(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        stolen = anna.token
        with telling(run) as operator:
            operator.revoke(anna.identity.worker_id)
        assert refused(anna.ask) == UNKNOWN
    with serving(folder) as run:
        again = Volunteer(run)
        again.identity, again.token, again.signed_at_ms = anna.identity, stolen, 10
        assert refused(again.ask) == UNKNOWN
        again.join()
        again.lease()


def test_a_worker_that_is_banned_leaves_with_the_operator_s_words(tmp_path: Path) -> None:
    with serving(tiny_run_folder(tmp_path, *QUIET)) as run:
        told = threading.Event()

        def ban(status: Any) -> bool:
            if status.leases_done >= 1 and not told.is_set():
                told.set()
                with telling(run) as operator:
                    operator.ban(status.worker_id, days=1.0, note="your card computes wrongly")
            return False

        with pytest.raises(ShutOut, match="your card computes wrongly"):
            work_here(tmp_path / "worker", run.address, Goal(), stop_when=ban)
        assert told.is_set()


def test_orders_that_come_to_nothing_are_refused(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *BY_LIST)
    tries: list[tuple[Callable[[Orders], Any], str]] = [
        (lambda o: o.ban("0" * 16, days=0.0, note=""), "never joined this run"),
        (lambda o: o.revoke("anna"), "never joined this run"),
        (lambda o: o.unban("0" * 16), "is not banned"),
        (lambda o: o.allow("anna", ""), "is no worker's id"),
        (lambda o: o.allow("0" * 16, "two\nlines"), "one printable line"),
        (lambda o: o.disallow("0" * 16, ""), "is not on this run's list"),
        (lambda o: o.uninvite(""), "none of this run's invitations"),
        (lambda o: o.invite(uses=1, days=1.0, note=""), "changes nothing"),
    ]
    for order, sentence in tries:
        with orders(folder) as operator, pytest.raises(ConfigError, match=sentence):
            order(operator)
    with pytest.raises(ConfigError, match="is not a run"), orders(RunFolder(tmp_path / "nowhere")):
        pass
