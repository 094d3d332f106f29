"""Two volunteers and one lease, over real sockets: neither can tell, both are paid, and who lies is at odds with the others."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch

from coordinator.ledger import Ledger
from coordinator.records import ActionKind, Opinion
from coordinator.replay import replay
from diffusion_at_home.audit.records import RoundPage, round_path
from diffusion_at_home.rpc import coordinator_pb2 as pb
from tests.integration.live_run import LiveRun, Volunteer, encoded_delta, num_parameters, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder

ROUNDS = (
    "round.images=32",
    "lease.min_steps=2",
    "lease.probe_steps=2",
    "lease.max_steps=2",
    "evaluation.every_images=100000",
    "checkpoint.every_images=100000",
    "audit.strikes=1",
    "screening.enabled=true",
    "aggregation.clip=1.5",
)
OFF, ON = "audit.second_volunteer_share=0.0", "audit.second_volunteer_share=0.2"
LEASES_OF_A_ROUND = 2


def trained(run: LiveRun, grant: pb.LeaseGrant) -> torch.Tensor:
    """What an honest worker gets for a lease: a function of its terms."""
    generator = torch.Generator().manual_seed(grant.seed)
    return 1e-3 * torch.randn(num_parameters(run.folder), generator=generator)


def a_round(run: LiveRun, number: int, workers: list[Volunteer], liar: Volunteer) -> list[pb.LeaseGrant]:
    """All work on it, the liar by turns the first and the last; returns what they were granted."""
    granted: list[pb.LeaseGrant] = []
    for turn in range(3 * len(workers)):
        worker = workers[(turn + number) % len(workers)]
        reply = worker.ask(wait_ms=0 if granted else 5000)  # the round may not be open yet
        if reply.WhichOneof("outcome") != "grant":
            break
        if reply.grant.round != number:  # the next one is open already
            worker.release(reply.grant.lease_id)
            break
        granted.append(reply.grant)
        delta = trained(run, reply.grant)
        worker.submit(reply.grant, encoded_delta(0.5 * delta if worker is liar else delta))
    run.wait_for_version(number)
    return granted


def without_its_number(grant: pb.LeaseGrant) -> pb.LeaseGrant:
    same = pb.LeaseGrant()
    same.CopyFrom(grant)
    for field in (
        "lease_id",
        "catch_up",
        "upcoming_shards",
        "closes_in_ms",
    ):  # the last three are of the asker and the time
        same.ClearField(field)
    return same


@pytest.mark.slow  # who gets a lease again is a matter of chance: up to 60 rounds
def test_a_liar_is_at_odds_with_the_others_and_cannot_tell_when(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ROUNDS, ON)
    grants: dict[int, pb.LeaseGrant] = {}
    with (
        serving(folder) as run,
        volunteers(run, 3) as workers,
        closing(Ledger(folder.ledger, read_only=True)) as ledger,
    ):
        liar = workers[2]
        for number in range(1, 61):
            grants |= {grant.lease_id: grant for grant in a_round(run, number, workers, liar)}
            opinions = {one.opinion for one in ledger.second_opinions()}
            if opinions == {Opinion.AGREES, Opinion.DISAGREES} and ledger.actions():
                break
        distrusted = {action.subject for action in ledger.actions()}
        assert {action.kind for action in ledger.actions()} == {ActionKind.DISTRUST}
        assert distrusted == {liar.identity.worker_id}
        for one in ledger.second_opinions():
            lies = liar.identity.worker_id in {one.worker_id, one.first_worker_id}
            assert one.opinion is (Opinion.DISAGREES if lies else Opinion.AGREES)
            first, second = grants[one.first_lease_id], grants[one.lease_id]
            assert without_its_number(first) == without_its_number(second)
            assert {field.name for field, _ in first.ListFields()} == {field.name for field, _ in second.ListFields()}
        credited = ledger.images_by_worker(number)
        assert sum(credited.values()) == 16 * len(grants)
        assert ledger.newest_version().images == 32 * number
        again = [one for one in RoundPage.model_validate_json(run.get(round_path(number)).text).leases if one.second_of]
        assert all((one.weight, one.left_out) == (0.0, "") for one in again)
    replayed = replay(folder)
    assert (replayed.versions, replayed.contributions) == (number + 1, LEASES_OF_A_ROUND * number)


def test_with_the_defence_off_nobody_notices(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ROUNDS, OFF)
    with (
        serving(folder) as run,
        volunteers(run, 3) as workers,
        closing(Ledger(folder.ledger, read_only=True)) as ledger,
    ):
        for number in range(1, 7):
            assert len(a_round(run, number, workers, workers[2])) == LEASES_OF_A_ROUND
        assert ledger.second_opinions() == []
        assert ledger.actions() == []
        assert ledger.left_out() == {}
