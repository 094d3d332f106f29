"""The coordinator is killed while it drains: it comes to rest all the same, and grants nothing meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import grpc

from coordinator.orders import orders
from diffusion_at_home.rpc import coordinator_pb2 as pb
from tests.faults.processes import house, wait_until
from tests.faults.supervisor import Supervisor, assert_each_counts_once, settle
from tests.integration.live_run import LiveRun, Volunteer, encoded, refusal, volunteers
from tests.unit.tiny_data import tiny_run_folder

QUIET = (
    "run.total_images=1000000",
    "lease.probe_steps=1",
    "lease.min_steps=1",
    "lease.max_steps=1",
    "lease.timeout_seconds=600",
    "evaluation.every_images=1000000",
    "evaluation.draws=1",
    "evaluation.max_images=4",
    "checkpoint.every_images=1000000",
    "checkpoint.sampling_steps=1",
)
"""A run that evaluates and exports by order alone."""

WHILE_IT_DRAINS = (
    "order: heard",
    "contribution: before its receipt",
    "close: before its commit",
    "close: after its commit",
    "version: before its commit",
    "version: after its commit",
)

T = TypeVar("T")


def insist(call: Callable[[], T]) -> T:
    """The answer, however often nobody answers."""

    def answered() -> tuple[T] | None:
        try:
            return (call(),)
        except grpc.RpcError as error:
            if refusal(error)[1] not in {"", "REFUSAL_WRONG_OFFSET"}:
                raise
            return None

    return wait_until(answered)[0]


def hand_in(volunteer: Volunteer, grant: pb.LeaseGrant) -> pb.SubmitReply:
    data = encoded(volunteer.run, 0.001 * grant.lease_id)
    return insist(lambda: volunteer.submit(grant, data, offset=volunteer.offset(grant.lease_id, data)))


def hand_in_if_it_lives(volunteer: Volunteer, grant: pb.LeaseGrant) -> None:
    data = encoded(volunteer.run, 0.001 * grant.lease_id)
    with suppress(grpc.RpcError):
        volunteer.submit(grant, data)


def drained(run: LiveRun) -> bool:
    return run.status()["draining"] is not None


def test_a_run_that_drains_comes_to_rest_wherever_it_is_killed_and_grants_nothing_meanwhile(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, "round.images=64")
    receipts: list[pb.SubmitReply] = []
    with house(tmp_path) as home:
        supervisor = Supervisor(home, folder, tmp_path / "passed")
        run = supervisor.start()
        with volunteers(run, 2) as (anna, bert):
            for number, point in enumerate(WHILE_IT_DRAINS):
                supervisor.process.kill()
                armed = tmp_path / f"armed-{number}"
                run = supervisor.start(point, armed)
                before, grant = run.status()["version"], insist(anna.lease)
                armed.touch()
                with orders(folder) as operator:
                    operator.drain(f"to die at {point}")
                if point != "order: heard":
                    wait_until(partial(drained, run))
                    hand_in_if_it_lives(anna, grant)
                supervisor.await_death_at(point)
                run = supervisor.start()
                idle = insist(bert.ask).idle
                assert (idle.reason, idle.sentence) == (pb.Idle.REASON_DRAINING, f"to die at {point}")
                receipts.append(hand_in(anna, grant))
                status = run.wait_for_version(before + 1)
                assert (status["version"], status["active_leases"]) == (before + 1, 0)
                assert status["draining"]["note"] == f"to die at {point}"
                assert insist(anna.ask).idle.reason == pb.Idle.REASON_DRAINING
                with orders(folder) as operator:
                    operator.resume("")
                wait_until(lambda: not drained(run))  # noqa: B023 -- called at once
            receipts.append(hand_in(anna, insist(anna.lease)))
        settle(supervisor, folder)
    assert_each_counts_once(folder, receipts)
