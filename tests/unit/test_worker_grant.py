from pathlib import Path

import pytest
from torch import nn

from diffusion_at_home.config.run import Codec, RunConfig
from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.data.manifest import DataManifest, ShardEntry
from diffusion_at_home.data.order import ShardRange
from diffusion_at_home.errors import LeaseLost
from diffusion_at_home.rpc import coordinator_pb2 as pb
from diffusion_at_home.wire.layout import Layout
from worker.blobs import BlobRef
from worker.grant import GrantReader

SHARDS = tuple(
    ShardEntry(name=f"{n}.tar", sha256=f"{n}" * 64, size_bytes=500, num_samples=100, width=8, height=8)
    for n in range(2)
)
READER = GrantReader(
    load_toml(Path("configs/digits.toml"), RunConfig),
    DataManifest(name="t", source="s", license="CC0-1.0", train=SHARDS),
    Layout.of(nn.Linear(10, 10)),
)


def message() -> pb.LeaseGrant:
    return pb.LeaseGrant(
        lease_id=3,
        round=2,
        base_version=1,
        base_digest="d",
        catch_up=[pb.Blob(kind=pb.Blob.KIND_UPDATE, version=1, sha256="a" * 64, size_bytes=140, weights_digest="d")],
        ranges=[pb.ShardRange(shard=1, epoch=4, start=90, count=10), pb.ShardRange(shard=0, epoch=5, count=22)],
        seed=2**63 + 1,
        quota_images=32,
        learning_rate=1e-3,
        codec="int8",
        timeout_ms=1000,
        next_heartbeat_ms=2500,
        closes_in_ms=9000,
        upcoming_shards=["1" * 64, "f" * 64],
    )


def test_a_sound_grant_is_read_whole_and_unknown_shards_are_not_prefetched() -> None:
    grant = READER.read(message())
    assert grant.ranges == (
        ShardRange(epoch=4, shard=1, start=90, count=10),
        ShardRange(epoch=5, shard=0, start=0, count=22),
    )
    assert (grant.quota_images, grant.seed, grant.codec) == (32, 2**63 + 1, Codec.INT8)
    assert (grant.next_heartbeat_seconds, grant.closes_in_seconds) == (2.5, 9.0)
    assert grant.catch_up[0].blob == BlobRef("a" * 64, 140)
    assert grant.upcoming == (BlobRef("1" * 64, 500),)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (pb.LeaseGrant(quota_images=33), "quota_images"),
        (pb.LeaseGrant(learning_rate=float("inf")), "learning_rate"),
        (pb.LeaseGrant(ranges=[pb.ShardRange(shard=2, count=1)]), "shard 2"),
        (pb.LeaseGrant(ranges=[pb.ShardRange(shard=1, start=95, count=6)]), "shard 1 has no samples up to 101"),
        (pb.LeaseGrant(ranges=[pb.ShardRange(shard=1)]), "shard 1"),
        (pb.LeaseGrant(catch_up=[pb.Blob(kind=pb.Blob.KIND_UPDATE, sha256="../../x", size_bytes=1)]), "name or size"),
        (pb.LeaseGrant(catch_up=[pb.Blob(kind=pb.Blob.KIND_UPDATE, sha256="a" * 64, size_bytes=500)]), "name or size"),
        (pb.LeaseGrant(catch_up=[pb.Blob(sha256="a" * 64, size_bytes=100)]), "kind"),
    ],
)
def test_a_field_out_of_bounds_loses_the_lease_and_is_named(change: pb.LeaseGrant, named: str) -> None:
    grant = message()
    grant.MergeFrom(change)
    with pytest.raises(LeaseLost, match=named) as lost:
        READER.read(grant)
    assert lost.value.reason == "malformed_grant"


def test_an_unknown_codec_is_no_lease() -> None:
    grant = message()
    grant.codec = "int2"
    with pytest.raises(LeaseLost, match="'int2'"):
        READER.read(grant)
