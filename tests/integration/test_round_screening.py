"""What a coordinator makes of rounds in which somebody cheats, or computes wrongly: over real sockets, with the ledger's word."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from coordinator.ledger import Ledger
from coordinator.records import Fault, Verdict
from coordinator.replay import replay
from coordinator.run_folder import RunFolder
from diffusion_at_home.config.run import Codec
from diffusion_at_home.data.order import ShardRange
from diffusion_at_home.kept_weights import KeptWeights
from diffusion_at_home.lease_terms import LeaseTerms
from diffusion_at_home.rpc import coordinator_pb2 as pb
from tests.integration.live_run import (
    LiveRun,
    Volunteer,
    encoded_delta,
    num_parameters,
    refusal,
    serving,
    volunteers,
)
from tests.unit.deltas import honest, noise
from tests.unit.tiny_data import tiny_run_folder

WORKERS = 5
QUOTA = 8
ROUNDS = (
    f"round.images={WORKERS * QUOTA}",
    "lease.min_steps=1",
    "lease.probe_steps=1",
    "lease.max_steps=1",
    "screening.enabled=true",
    "aggregation.clip=1.5",
    "evaluation.every_images=100000",
    "checkpoint.every_images=100000",
)
ROUNDS_FP32 = (*ROUNDS, "codec.delta='fp32'")

Change = Callable[[torch.Tensor], torch.Tensor]


def deltas(folder: RunFolder, number: int) -> list[torch.Tensor]:
    """Of five honest workers in round `number`; elements that are left of the sixty thousand do not matter."""
    size = num_parameters(folder)
    return [torch.cat([delta, noise(number)])[:size] + 1e-3 * noise(number, size) for delta in honest(WORKERS)]


def hand_in(run: LiveRun, all_of_them: Sequence[Volunteer], number: int, change: Change, codec: Codec) -> None:
    """Round `number`, in which the last one hands in what `change` makes of an honest delta."""
    leases = [one.lease() for one in all_of_them]
    assert {lease.round for lease in leases} == {number}
    found = deltas(run.folder, number)
    found[-1] = change(found[-1])
    for one, lease, delta in zip(all_of_them, leases, found, strict=True):
        one.submit(lease, encoded_delta(delta, codec))
    run.wait_for_version(number)


@contextmanager
def reading(folder: RunFolder) -> Iterator[Ledger]:
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        yield ledger


def verdicts(folder: RunFolder, number: int) -> list[Verdict]:
    with reading(folder) as ledger:
        return ledger.verdicts(number)


def test_a_contribution_against_the_round_is_left_out_told_and_trained_again(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ROUNDS)
    with serving(folder) as run, volunteers(run, WORKERS) as everybody:
        hand_in(run, everybody, 1, torch.neg, Codec.INT8)
        assert (run.status()["images"], run.status()["left_out"]) == ((WORKERS - 1) * QUOTA, {"opposed": 1})
        replies = [one.ask(wait_ms=10_000) for one in everybody]
        told = [[(left.round, left.reason) for left in reply.left_out] for reply in replies]
        assert told == [[], [], [], [], [(1, pb.REFUSAL_OPPOSED)]]
        with reading(folder) as ledger:
            (bad,) = (c for c in ledger.contributions(1) if c.worker_id == everybody[-1].identity.worker_id)
            assert everybody[-1].identity.worker_id not in ledger.images_by_worker(1)
            assert sum(ledger.images_by_worker(1).values()) == (WORKERS - 1) * QUOTA
        again = [reply.grant.ranges[0] for reply in replies]
        assert (bad.first_range.shard, bad.first_range.start) in {(part.shard, part.start) for part in again}
        assert 'dah_left_out_total{reason="opposed"} 1.0' in run.get("/metrics").text
    assert replay(folder).versions == 2


def test_the_same_contribution_counts_where_nobody_screens(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ROUNDS, "screening.enabled=false", "aggregation.clip=0.0")
    with serving(folder) as run, volunteers(run, WORKERS) as everybody:
        hand_in(run, everybody, 1, torch.neg, Codec.INT8)
        assert run.status()["images"] == WORKERS * QUOTA
    assert verdicts(folder, 1) == []


def test_a_long_delta_is_clipped_and_the_replay_makes_the_same_bits(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ROUNDS)
    with serving(folder) as run, volunteers(run, WORKERS) as everybody:
        hand_in(run, everybody, 1, lambda delta: 3 * delta, Codec.INT8)
        assert run.status()["images"] == WORKERS * QUOTA
    found = verdicts(folder, 1)
    assert [v.scale for v in found[:-1]] == [1.0] * (WORKERS - 1)
    assert found[-1].scale == pytest.approx(0.5, rel=0.1)
    assert replay(folder).versions == 2


@pytest.mark.parametrize("rule", ["centered_clip", "trimmed_mean", "median"])
def test_every_rule_is_replayed_to_the_same_bits(tmp_path: Path, rule: str) -> None:
    folder = tiny_run_folder(tmp_path, *ROUNDS, f"aggregation.rule='{rule}'")
    with serving(folder) as run, volunteers(run, WORKERS) as everybody:
        hand_in(run, everybody, 1, lambda delta: 2 * delta, Codec.INT8)
    assert replay(folder).versions == 2


def test_what_was_decided_stays_decided_after_a_restart(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ROUNDS)
    with serving(folder) as run, volunteers(run, WORKERS) as everybody:
        hand_in(run, everybody, 1, torch.neg, Codec.INT8)
        before = verdicts(folder, 1)
        keys = [one.identity for one in everybody]
    with serving(folder) as run, volunteers(run, WORKERS) as everybody:
        for one, key in zip(everybody, keys, strict=True):
            one.identity, one.signed_at_ms = key, 10
            one.join()
        hand_in(run, everybody, 2, torch.clone, Codec.INT8)
        assert verdicts(folder, 1) == before
        assert {v.fault for v in verdicts(folder, 2)} == {Fault.NONE}
    assert replay(folder).versions == 3


def test_one_s_own_old_bytes_are_a_copy(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ROUNDS)
    with serving(folder) as run, volunteers(run, WORKERS) as everybody:
        hand_in(run, everybody, 1, torch.clone, Codec.INT8)
        hand_in(run, everybody, 2, lambda _: deltas(folder, 1)[-1], Codec.INT8)
    assert [v.fault for v in verdicts(folder, 2)] == [Fault.NONE] * (WORKERS - 1) + [Fault.COPIED]


def test_three_that_are_not_finite_end_in_a_pause_that_outlasts_a_restart(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ROUNDS_FP32)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        data = encoded_delta(torch.full((num_parameters(folder),), torch.nan), Codec.FP32)
        for _ in range(3):
            lease = anna.lease()
            with pytest.raises(grpc.RpcError) as refused:
                anna.submit(lease, data)
            assert refusal(refused.value) == (grpc.StatusCode.INVALID_ARGUMENT, "REFUSAL_NOT_FINITE")
        reply = anna.ask()
        assert reply.idle.reason == pb.Idle.REASON_QUARANTINED
        assert 0 < reply.idle.retry_after_ms <= 120_000
        with volunteers(run, 1) as (bert,):
            assert bert.lease().quota_images == QUOTA  # the data is everybody's again
        key = anna.identity
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        anna.identity, anna.signed_at_ms = key, 10
        anna.join()
        assert anna.ask().idle.reason == pb.Idle.REASON_QUARANTINED


# -- signatures ---------------------------------------------------------------------------------------------------


LIES: dict[str, dict[str, Any]] = {
    "another lease": {"lease_id": 99},
    "another run": {"run_id": "other-00000000"},
    "other images": {"images": 7},
    "other weights": {"weights": KeptWeights.ROUNDED},
}
OTHER_TERMS: dict[str, Any] = {
    "base_version": 7,
    "base_digest": "0" * 64,
    "seed": 7,
    "learning_rate": 7.0,
    "ranges": (ShardRange(epoch=7, shard=0, start=0, count=16),),
}


def test_what_is_not_signed_as_it_is_does_not_count(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ROUNDS)
    with serving(folder) as run, volunteers(run, 2) as (anna, bert):
        lease, data = anna.lease(), encoded_delta(deltas(folder, 1)[0])
        header, terms = anna.header(lease, data), LeaseTerms.of_grant(lease)
        others = (replace(terms, **{name: value}).sha256 for name, value in OTHER_TERMS.items())
        lies = [*LIES.values(), *({"lease_sha256": other} for other in others)]
        signatures = [anna.identity.sign_contribution(anna.handed(lease, header, **lie)) for lie in lies]
        signatures += [bytes(64), bert.identity.sign_contribution(anna.handed(lease, header))]
        for signature in signatures:
            with pytest.raises(grpc.RpcError) as refused:
                anna.submit(lease, data, signature=signature)
            assert refusal(refused.value) == (grpc.StatusCode.UNAUTHENTICATED, "REFUSAL_BAD_SIGNATURE")
        with pytest.raises(grpc.RpcError) as refused:
            anna.submit(lease, data, signature=bytes(64), weights=0)
        assert refusal(refused.value) == (grpc.StatusCode.INVALID_ARGUMENT, "REFUSAL_MALFORMED")
        anna.submit(lease, data)
    with reading(folder) as ledger:
        (contribution,) = ledger.contributions(1)
    assert contribution.weights == KeptWeights.EXACT
    assert contribution.signature == anna.identity.sign_contribution(anna.handed(lease, header)).hex()
