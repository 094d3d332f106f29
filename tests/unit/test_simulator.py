"""The simulated fleet: the same seed is the same fleet, and what it hands in is what it says."""

from __future__ import annotations

import hashlib
import random
from collections import Counter

import pytest
import torch
from simulator.deltas import Deltas, Encoded
from simulator.mutation import mutate_bytes, mutate_field
from simulator.profile import Misbehaviour, draw_fleet
from simulator.settings import FleetSettings, MisbehaviourSection, Spread
from simulator.tally import Tally

from diffusion_at_home.config.run import Codec
from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.rpc import coordinator_pb2 as pb
from diffusion_at_home.wire.vector import VectorReader

MIXED = FleetSettings(
    workers=40,
    seed=3,
    speed=Spread(median=10.0, sigma=0.5),
    misbehaviour=MisbehaviourSection(hang=0.1, mutate=0.05, twice=0.025),
)


def test_a_seed_is_a_fleet() -> None:
    one, other = draw_fleet(MIXED), draw_fleet(MIXED)
    assert [(p.identity.worker_id, p.images_per_second, p.misbehaviour) for p in one] == [
        (p.identity.worker_id, p.images_per_second, p.misbehaviour) for p in other
    ]
    changed = draw_fleet(MIXED.model_copy(update={"seed": 4}))
    assert not {p.identity.worker_id for p in one} & {p.identity.worker_id for p in changed}


def test_shares_of_misbehaviour_are_met_in_whole_volunteers() -> None:
    counts = Counter(profile.misbehaviour for profile in draw_fleet(MIXED))
    assert counts == {Misbehaviour.NONE: 33, Misbehaviour.HANG: 4, Misbehaviour.MUTATE: 2, Misbehaviour.TWICE: 1}


def test_speeds_spread_around_their_median() -> None:
    speeds = torch.tensor([p.images_per_second for p in draw_fleet(MIXED.model_copy(update={"workers": 400}))])
    assert 9.0 < float(speeds.median()) < 11.0
    assert 0.4 < float(speeds.log().std()) < 0.6


def test_shares_beyond_the_whole_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"the shares add up to 1\.5"):
        load_toml(None, FleetSettings, ["misbehaviour.hang=0.75", "misbehaviour.slow=0.75"])


@pytest.mark.parametrize("codec", [Codec.FP32, Codec.INT8])
def test_no_two_deltas_are_the_same_and_all_are_valid(codec: Codec) -> None:
    deltas = Deltas(codec, 1000, count=2, seed=0)
    made = [deltas.next() for _ in range(5)]
    assert len({delta.sha256 for delta in made}) == 5
    for delta in made:
        assert hashlib.sha256(delta.data).hexdigest() == delta.sha256
        assert VectorReader(memoryview(delta.data), codec, 1000).is_finite()


@pytest.mark.parametrize("offset", [0, 1, 7, 9, 10])
def test_pieces_are_the_delta_from_an_offset_on(offset: int) -> None:
    delta = Encoded(memoryview(b"01234567"), b"89", "")
    assert b"".join(delta.pieces(offset, 3)) == b"0123456789"[offset:]
    assert all(len(piece) <= 3 for piece in delta.pieces(offset, 3))


def test_mutants_differ_from_what_they_were_made_of_and_leave_it_alone() -> None:
    rng = random.Random(0)
    header = pb.SubmitRequest(header=pb.SubmitHeader(lease_id=7, sha256="0" * 64, mean_loss=0.5))
    kept = header.SerializeToString()
    mutants = [mutate_field(header, rng).SerializeToString() for _ in range(200)]
    changed = [mutate_bytes(kept, rng) for _ in range(200)]
    assert header.SerializeToString() == kept
    assert sum(mutant != kept for mutant in mutants) > 150
    assert sum(data != kept for data in changed) > 150


def test_times_are_of_calls_that_were_answered() -> None:
    tally = Tally()
    with tally.timed("join"):
        pass
    with pytest.raises(ValueError, match="no"), tally.timed("join"):
        raise ValueError("no")
    assert tally.times("join").count == 1
