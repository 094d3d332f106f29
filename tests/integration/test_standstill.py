"""Draining, going on, publishing and notes, by orders to a real coordinator."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from coordinator.orders import Orders, orders
from coordinator.run_folder import RunFolder
from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.rpc import coordinator_pb2 as pb
from tests.integration.live_run import LiveRun, Volunteer, encoded, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder

QUIET = ("evaluation.every_images=100000", "checkpoint.every_images=100000", "lease.probe_steps=1", "lease.min_steps=1")
SMALL = ("round.images=32", "lease.max_steps=1")
FEW_PICTURES = ("evaluation.draws=1", "evaluation.max_images=4", "checkpoint.sampling_steps=1")
PATIENCE_SECONDS = 150.0
"""For exports, which give way to all that runs beside them."""


def tell(folder: RunFolder, order: Callable[[Orders], object]) -> int:
    """Give an order; returns how many there are then."""
    with orders(folder) as given:
        order(given)
        return len(given.state()["actions"])


def soon(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not fact():
        assert time.monotonic() < deadline
        Event().wait(0.05)


def heard(run: LiveRun, number: int) -> None:
    soon(lambda: run.status()["live"]["actions"] >= number)


def why_idle(volunteer: Volunteer, wait_ms: int = 0) -> str:
    reply = volunteer.ask(wait_ms=wait_ms)
    assert reply.WhichOneof("outcome") == "idle", reply
    return pb.Idle.Reason.Name(reply.idle.reason)


def test_a_run_that_drains_takes_what_is_out_publishes_it_and_stands_still_until_it_is_told_to_go_on(
    tmp_path: Path,
) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, *SMALL)
    with serving(folder) as run, volunteers(run, 2) as (anna, bert):
        out = anna.lease()
        heard(run, tell(folder, lambda o: o.drain("new disk")))
        assert why_idle(bert) == "REASON_DRAINING"
        assert bert.ask().idle.sentence == "new disk"
        assert run.status()["version"] == 0
        anna.submit(out, encoded(run, 0.01))
        status = run.wait_for_version(1)
        assert (status["images"], status["draining"]["note"]) == (8, "new disk")
        assert why_idle(anna) == why_idle(bert, wait_ms=50) == "REASON_DRAINING"
    with serving(folder) as run:
        again = Volunteer(run)
        again.identity, again.token = anna.identity, anna.token
        assert why_idle(again) == "REASON_DRAINING"
        assert again.ask().idle.sentence == "new disk"
        assert run.get("/healthz").status_code == 200
        heard(run, tell(folder, lambda o: o.resume("")))
        again.submit(again.lease(), encoded(run, 0.01))
        assert run.status()["draining"] is None


def test_who_waits_for_work_is_told_at_once(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, "round.images=8")
    with serving(folder) as run, volunteers(run, 2) as (anna, bert):
        anna.lease()
        waiting = bert.stub.Lease.future(
            pb.LeaseRequest(protocol_version=PROTOCOL_VERSION, wait_ms=30_000),
            metadata=(("authorization", f"Bearer {bert.token}"),),
            timeout=PATIENCE_SECONDS,
        )
        tell(folder, lambda o: o.drain(""))
        assert waiting.result().idle.reason == pb.Idle.REASON_DRAINING


def test_a_checkpoint_is_made_by_order_once_for_a_version_also_of_one_given_while_nobody_served(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *FEW_PICTURES, *QUIET, "round.images=8", "lease.max_steps=1")
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        anna.submit(anna.lease(), encoded(run, 0.001))
        run.wait_for_version(1)
        tell(folder, lambda o: o.publish("for the fair"))
        soon(lambda: bool(run.status()["checkpoints"]))
        (made,) = run.status()["checkpoints"]
        assert (made["name"], made["version"]) == ("tiny-0000000008", 1)
        with orders(folder) as given:
            again = given.publish("")
            assert (again.number, again.checkpoint) == (0, made["name"])
            assert len(given.state()["actions"]) == 1
        anna.submit(anna.lease(), encoded(run, 0.001))
        run.wait_for_version(2)
    tell(folder, lambda o: o.publish("while nobody serves"))
    with serving(folder) as run:
        soon(lambda: [one["version"] for one in run.status()["checkpoints"]] == [1, 2])


def test_orders_that_would_come_to_nothing_are_refused_and_a_note_only_stands_there(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET)
    tries: list[tuple[Callable[[Orders], object], str]] = [
        (lambda o: o.resume(""), "was not drained"),
        (lambda o: o.publish(""), "nothing was trained yet"),
        (lambda o: o.note("  "), "note is empty"),
        (lambda o: o.note("two\nlines"), "one printable line"),
    ]
    for order, sentence in tries:
        with orders(folder) as given, pytest.raises(ConfigError, match=sentence):
            order(given)
    with orders(folder) as given:
        given.drain("")
        with pytest.raises(ConfigError, match="draining already"):
            given.drain("")
        given.note("the data set has a new mirror")
        assert [(one["action"], one["note"]) for one in given.state()["actions"]] == [
            ("drain", ""),
            ("note", "the data set has a new mirror"),
        ]
