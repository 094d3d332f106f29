"""A lease's digest, and what is signed of it, byte for byte: another worker's software has to make the same."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from diffusion_at_home.data.order import ShardRange
from diffusion_at_home.identity import Handed
from diffusion_at_home.kept_weights import KeptWeights, from_wire, to_wire
from diffusion_at_home.lease_terms import LeaseTerms
from diffusion_at_home.rpc.coordinator_pb2 import LeaseGrant
from diffusion_at_home.rpc.coordinator_pb2 import ShardRange as Range

RANGES = (ShardRange(epoch=1, shard=2, start=3, count=4), ShardRange(epoch=1, shard=0, start=0, count=12))
TERMS = LeaseTerms(base_version=5, base_digest="ab" * 32, seed=6, learning_rate=0.001, ranges=RANGES)


def test_the_digest_is_that_of_the_documented_lines() -> None:
    lines = b"dah-lease-v1\n5\n" + b"ab" * 32 + b"\n6\n3f50624dd2f1a9fc\n1 2 3 4\n1 0 0 12"
    assert TERMS.sha256 == hashlib.sha256(lines).hexdigest()


def test_what_is_signed_is_the_documented_lines() -> None:
    handed = Handed("tiny-1", 7, "cd" * 32, KeptWeights.ROUNDED, "ef" * 32, 16)
    lease = b"tiny-1\n7\n" + b"cd" * 32 + b"\nrounded\n"
    assert handed.message() == b"dah-contribution-v2\n" + lease + b"ef" * 32 + b"\n16\n\n"


@pytest.mark.parametrize(
    "change",
    [
        {"base_version": 4},
        {"base_digest": "cd" * 32},
        {"seed": 7},
        {"learning_rate": 0.0010000000000000002},
        {"ranges": RANGES[:1]},
        {"ranges": RANGES[::-1]},
        {"ranges": (replace(RANGES[0], epoch=2), RANGES[1])},
    ],
)
def test_each_fact_of_a_lease_changes_its_digest(change: dict[str, Any]) -> None:
    assert replace(TERMS, **change).sha256 != TERMS.sha256


def test_a_grant_has_the_terms_that_its_coordinator_stored() -> None:
    grant = LeaseGrant(base_version=5, base_digest="ab" * 32, seed=6, learning_rate=0.001)
    for part in RANGES:
        grant.ranges.append(Range(epoch=part.epoch, shard=part.shard, start=part.start, count=part.count))
    assert LeaseTerms.of_grant(LeaseGrant.FromString(grant.SerializeToString())) == TERMS


def test_how_weights_were_kept_travels_and_anything_else_is_nothing() -> None:
    assert [from_wire(to_wire(kept)) for kept in KeptWeights] == list(KeptWeights)
    assert [from_wire(value) for value in (0, 3, -1, 2**31 - 1)] == [None] * 4
