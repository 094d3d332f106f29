"""A run whose deltas carry error feedback: what is left out is committed to, and shown, before a contribution counts."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from coordinator.ledger import Ledger
from coordinator.records import Fault
from coordinator.run_folder import RunFolder
from diffusion_at_home.audit.records import LeasePage, lease_path
from diffusion_at_home.audit.residual import MAX_SHOWN_LEAVES, ShownLeaf, commitment_tree, num_leaves, show
from diffusion_at_home.audit.shown import leaf_message, read_shown
from diffusion_at_home.config.run import Codec, CodecSection
from diffusion_at_home.errors import LeaseLost
from diffusion_at_home.kept_weights import KeptWeights
from diffusion_at_home.rpc import coordinator_pb2 as pb
from diffusion_at_home.wire.layout import Layout, Slot
from diffusion_at_home.wire.vector import VectorReader
from tests.integration.live_run import LiveRun, Volunteer, encoded_delta, num_parameters, refusal, serving, volunteers
from tests.unit.deltas import noise
from tests.unit.tiny_data import tiny_run_folder
from worker.grant import LeaseId
from worker.outbox import WRONG_RESIDUAL, Contribution, Outbox
from worker.residual import Residual
from worker.trainer import Trained

CODEC = CodecSection(delta=Codec.SPARSE, feedback=0.9)
RUN = (
    "codec.delta='sparse'",
    "codec.feedback=0.9",
    "audit.shown_leaves=2",
    "round.images=8",  # a round each
    "lease.min_steps=1",
    "lease.probe_steps=1",
    "lease.max_steps=1",
    "evaluation.every_images=100000",
    "checkpoint.every_images=100000",
)
WRONG = (grpc.StatusCode.FAILED_PRECONDITION, "REFUSAL_WRONG_RESIDUAL")
MALFORMED = (grpc.StatusCode.INVALID_ARGUMENT, "REFUSAL_MALFORMED")


class Hand:
    """A volunteer that hands in whatever it likes, with a true residual."""

    def __init__(self, volunteer: Volunteer, folder: Path) -> None:
        self.volunteer = volunteer
        self.size = num_parameters(volunteer.run.folder)
        layout = Layout((Slot("weight", (self.size,), 0, self.size),))
        self.outbox = Outbox(folder / "outbox", Residual(folder / "residual", CODEC, layout))

    def encode(self, grant: pb.LeaseGrant, seed: int = 0) -> Contribution:
        trained = Trained(1e-3 * noise(seed, self.size), grant.quota_images, 1.0, 0.5, KeptWeights.EXACT)
        return self.outbox.put(LeaseId(grant.lease_id), "0" * 64, trained, CODEC.delta)

    def submit(self, grant: pb.LeaseGrant, contribution: Contribution, **lies: Any) -> pb.SubmitReply:
        """As a first Submit."""
        data = self.outbox.vector(contribution).read_bytes()
        return self.volunteer.submit(grant, data, **(self.commitments(contribution) | lies))

    def answer(
        self, grant: pb.LeaseGrant, contribution: Contribution, leaves: Sequence[ShownLeaf], **lies: Any
    ) -> pb.SubmitReply:
        """As a second one."""
        data = self.outbox.vector(contribution).read_bytes()
        header = self.volunteer.header(grant, data, offset=len(data), **(self.commitments(contribution) | lies))
        shown = [pb.SubmitRequest(shown=leaf_message(leaf)) for leaf in leaves]
        return self.volunteer.send([pb.SubmitRequest(header=header), *shown])

    def hand_in(self, grant: pb.LeaseGrant, seed: int = 0) -> Contribution:
        """All of it."""
        contribution = self.encode(grant, seed)
        asked = self.submit(grant, contribution).challenge.leaves
        assert self.answer(grant, contribution, self.outbox.show(contribution, asked)).contribution_id
        self.outbox.received(contribution)
        return contribution

    @staticmethod
    def commitments(contribution: Contribution) -> dict[str, Any]:
        return {
            "residual_before": bytes.fromhex(contribution.residual_before),
            "residual_after": bytes.fromhex(contribution.residual_after),
        }


def decoded(data: bytes) -> VectorReader:
    (num_elements,) = struct.unpack_from("<Q", data, 8)
    return VectorReader(memoryview(data), CODEC.delta, num_elements)


@contextmanager
def reading(folder: RunFolder) -> Iterator[Ledger]:
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        yield ledger


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRun]:
    with serving(tiny_run_folder(tmp_path_factory.mktemp("shown"), *RUN)) as served:
        yield served


@pytest.fixture
def hand(run: LiveRun, tmp_path: Path) -> Iterator[Hand]:
    with volunteers(run, 1) as (volunteer,):
        yield Hand(volunteer, tmp_path)


def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return refusal(raised.value)


def test_a_contribution_counts_once_its_residual_was_shown_and_anybody_may_look(run: LiveRun, hand: Hand) -> None:
    last = ""
    for seed in range(2):
        grant = hand.volunteer.lease()
        contribution = hand.encode(grant, seed)
        assert contribution.residual_before == last
        asked = hand.submit(grant, contribution)
        assert asked == pb.SubmitReply(challenge=asked.challenge)
        indices = list(asked.challenge.leaves)
        assert indices == sorted(set(indices))
        assert len(indices) == 2
        assert hand.submit(grant, contribution, offset=contribution.size_bytes) == asked  # the line broke off
        shown = hand.outbox.show(contribution, indices)
        receipt = hand.answer(grant, contribution, shown)
        assert receipt.images == grant.quota_images
        assert hand.submit(grant, contribution) == receipt  # the receipt was lost
        hand.outbox.received(contribution)
        run.wait_for_version(grant.round)
        record = LeasePage.model_validate_json(run.get(lease_path(grant.lease_id)).text).lease
        last = contribution.residual_after
        assert (record.residual_before, record.residual_after) == (contribution.residual_before, last)
        blob = run.get(f"/blobs/{record.shown_sha256}").content
        assert hashlib.sha256(blob).hexdigest() == record.shown_sha256
        assert len(blob) == record.shown_bytes
        assert read_shown(blob) == shown
        with reading(run.folder) as ledger:
            assert {record.sha256, record.shown_sha256} <= ledger.blob_names()
            assert {record.sha256, record.shown_sha256} <= {held.sha256 for held in ledger.held_deltas()}


def test_another_residual_than_the_last_one_is_refused_and_none_never_is(hand: Hand) -> None:
    first = hand.hand_in(hand.volunteer.lease())
    second = hand.hand_in(hand.volunteer.lease(), 1)
    grant = hand.volunteer.lease()
    third = hand.encode(grant, 2)
    for lie in (first.residual_after, first.residual_before or "11" * 32, third.residual_after):
        assert refused(lambda: hand.submit(grant, third, residual_before=bytes.fromhex(lie))) == WRONG  # noqa: B023
    assert third.residual_before == second.residual_after
    hand.outbox.refused(third, LeaseLost("it is wrong", WRONG_RESIDUAL))
    dropped = hand.hand_in(grant, 3)
    assert dropped.residual_before == ""
    assert hand.hand_in(hand.volunteer.lease(), 4).residual_before == dropped.residual_after


def test_what_does_not_fit_is_refused_held_against_its_worker_and_ends_the_lease(run: LiveRun, hand: Hand) -> None:
    grant = hand.volunteer.lease()
    contribution = hand.encode(grant)
    asked = hand.submit(grant, contribution).challenge.leaves
    others = [index for index in range(num_leaves(hand.size)) if index not in asked][:2]
    assert refused(lambda: hand.answer(grant, contribution, hand.outbox.show(contribution, others))) == WRONG
    with reading(run.folder) as ledger:
        verdicts = [verdict for verdict in ledger.verdicts(grant.round) if verdict.lease_id == grant.lease_id]
        assert ledger.contribution_of(LeaseId(grant.lease_id)) is None
    assert [verdict.fault for verdict in verdicts] == [Fault.MISFIT]
    assert hand.volunteer.beat(grant.lease_id).order == pb.HeartbeatReply.ORDER_ABANDON


def test_poison_that_its_residual_takes_back_is_refused_without_training_anything(hand: Hand) -> None:
    grant = hand.volunteer.lease()
    contribution = hand.encode(grant)
    every = hand.outbox.show(contribution, range(num_leaves(hand.size)))
    left = torch.frombuffer(bytearray(b"".join(leaf.after for leaf in every)), dtype=torch.float32)
    decoded(hand.outbox.vector(contribution).read_bytes()).add_to(left)
    poison = encoded_delta(1e-2 * noise(7, hand.size), CODEC.delta)
    sent = torch.zeros_like(left)
    decoded(poison).add_to(sent)
    after = left - sent
    tree = commitment_tree(after)
    asked = hand.volunteer.submit(grant, poison, residual_after=tree.root).challenge.leaves
    header = hand.volunteer.header(grant, poison, offset=len(poison), residual_after=tree.root)
    shown = [pb.SubmitRequest(shown=leaf_message(show(index, None, (after, tree)))) for index in asked]
    assert refused(lambda: hand.volunteer.send([pb.SubmitRequest(header=header), *shown])) == WRONG


def test_nobody_tries_its_luck_with_other_bytes(hand: Hand) -> None:
    grant = hand.volunteer.lease()
    contribution = hand.encode(grant)
    asked = hand.submit(grant, contribution)
    other = encoded_delta(noise(3, hand.size), CODEC.delta)
    duplicate = (grpc.StatusCode.ALREADY_EXISTS, "REFUSAL_DUPLICATE")
    commitments = Hand.commitments(contribution)
    assert refused(lambda: hand.volunteer.submit(grant, other, **commitments)) == duplicate
    for name in commitments:
        lie = commitments | {name: b"\1" * 32}
        found = refused(lambda: hand.volunteer.submit(grant, hand.outbox.vector(contribution).read_bytes(), **lie))  # noqa: B023
        assert found in (duplicate, WRONG)
    assert hand.answer(grant, contribution, hand.outbox.show(contribution, asked.challenge.leaves)).contribution_id


def test_what_is_malformed_is_refused_before_it_is_kept(hand: Hand) -> None:
    grant = hand.volunteer.lease()
    contribution = hand.encode(grant)
    none, short = {"residual_after": b""}, {"residual_after": b"\1" * 31}
    for lie in (none, short, {"residual_before": b"\1"}, none | {"residual_before": b"\1" * 32}):
        assert refused(lambda: hand.submit(grant, contribution, **lie)) == MALFORMED  # noqa: B023
    asked = hand.submit(grant, contribution).challenge.leaves
    leaves = hand.outbox.show(contribution, asked)
    huge = ShownLeaf(0, bytes(200_000), (), b"", ())
    long = ShownLeaf(asked[0], b"", (), b"", (bytes(32),) * 2_000)
    for wrong in ([huge], [long], [*leaves, leaves[0]], leaves * MAX_SHOWN_LEAVES):
        assert refused(lambda: hand.answer(grant, contribution, wrong)) == MALFORMED  # noqa: B023
    assert hand.answer(grant, contribution, leaves).contribution_id


def test_who_is_killed_before_it_has_shown_loses_that_lease_and_goes_on_with_none(hand: Hand, tmp_path: Path) -> None:
    hand.hand_in(hand.volunteer.lease())
    grant = hand.volunteer.lease()
    lost = hand.encode(grant, 1)
    asked = hand.submit(grant, lost).challenge.leaves
    again = Hand(hand.volunteer, tmp_path)  # without a word from the process before
    assert again.outbox.recover() == [lost]
    assert again.submit(grant, lost, offset=lost.size_bytes).challenge.leaves == asked
    with pytest.raises(LeaseLost) as given_up:
        again.outbox.show(lost, asked)
    again.outbox.refused(lost, given_up.value)
    assert again.hand_in(again.volunteer.lease(), 2).residual_before == ""  # which gives the former lease back


def test_who_is_killed_after_it_has_shown_has_its_receipt_and_goes_on_with_none(hand: Hand, tmp_path: Path) -> None:
    grant = hand.volunteer.lease()
    counted = hand.encode(grant)
    asked = hand.submit(grant, counted).challenge.leaves
    receipt = hand.answer(grant, counted, hand.outbox.show(counted, asked))
    again = Hand(hand.volunteer, tmp_path)
    assert again.submit(grant, counted) == receipt
    again.outbox.received(counted)
    assert again.hand_in(again.volunteer.lease(), 1).residual_before == ""


def test_a_coordinator_that_was_restarted_asks_for_others(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *RUN)
    with serving(folder) as run, volunteers(run, 1) as (volunteer,):
        hand = Hand(volunteer, tmp_path / "hand")
        grant = volunteer.lease()
        contribution = hand.encode(grant)
        before = hand.submit(grant, contribution).challenge.leaves
        shown = hand.outbox.show(contribution, before)
    with serving(folder) as run, volunteers(run, 1) as (again,):
        again.identity, again.signed_at_ms = volunteer.identity, 10
        again.join()
        hand.volunteer = again
        asked = hand.answer(grant, contribution, shown).challenge.leaves  # which it knows nothing of
        assert len(asked) == 2
        assert hand.answer(grant, contribution, hand.outbox.show(contribution, asked)).contribution_id


def test_a_run_without_feedback_takes_no_commitments_and_one_that_wants_none_asks_for_none(tmp_path: Path) -> None:
    with serving(tiny_run_folder(tmp_path, "round.images=16")) as run, volunteers(run, 1) as (volunteer,):
        grant, delta = volunteer.lease(), encoded_delta(torch.zeros(num_parameters(run.folder)))
        assert refused(lambda: volunteer.submit(grant, delta, residual_after=bytes(32))) == MALFORMED
        assert volunteer.submit(grant, delta).contribution_id
    (tmp_path / "off").mkdir()
    with (
        serving(tiny_run_folder(tmp_path / "off", *RUN, "audit.shown_leaves=0")) as run,
        volunteers(run, 1) as (volunteer,),
    ):
        hand, grant = Hand(volunteer, tmp_path / "off"), volunteer.lease()
        assert hand.submit(grant, hand.encode(grant)).contribution_id
