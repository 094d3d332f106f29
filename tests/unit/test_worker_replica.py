import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import torch
from torch import Tensor, nn

from diffusion_at_home.config.run import Codec
from diffusion_at_home.errors import LeaseLost, RetryCall
from diffusion_at_home.wire.layout import Layout
from diffusion_at_home.wire.vector import VectorReader, encode_chunks, write_vector
from tests.unit.tiny_run import no_limit
from worker.backoff import Backoff
from worker.blobs import BlobCache, BlobFetcher, BlobRef
from worker.grant import Grant, LeaseId, WeightsBlob
from worker.patience import Patience
from worker.replica import Replica
from worker.run_address import RunAddress

NEVER = threading.Event()
LAYOUT = Layout.of(nn.Linear(30, 40))


@contextmanager
def fail_instead_of_waiting(why: RetryCall) -> Iterator[None]:
    raise AssertionError(f"waited: {why}")
    yield


class Body(httpx2.SyncByteStream):
    def __init__(self, data: bytes) -> None:
        self._data = data

    def __iter__(self) -> Iterator[bytes]:
        yield self._data


class Run:
    """Three versions as a coordinator publishes them: a snapshot of 0, and updates to 1 and 2."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(LAYOUT.num_elements, generator=generator)
        self.weights = [weights]
        self.blobs: dict[str, bytes] = {}
        self.steps = [self._publish(0, Codec.FP32, weights, weights)]
        for version in (1, 2):
            step = 0.1 * torch.randn(LAYOUT.num_elements, generator=generator)
            after = self.weights[-1].clone()
            VectorReader(memoryview(encoded(Codec.INT8, step)), Codec.INT8, LAYOUT.num_elements).add_to(after)
            self.weights.append(after)
            self.steps.append(self._publish(version, Codec.INT8, step, after))

    def grant(self, base_version: int, *catch_up: WeightsBlob) -> Grant:
        return Grant(
            lease_id=LeaseId(1),
            round=1,
            base_version=base_version,
            base_digest=LAYOUT.weights_digest(self.weights[base_version]),
            catch_up=catch_up,
            ranges=(),
            seed=0,
            quota_images=1,
            learning_rate=1.0,
            codec=Codec.INT8,
            next_heartbeat_seconds=1.0,
            closes_in_seconds=0.0,
            upcoming=(),
        )

    def _publish(self, version: int, codec: Codec, vector: Tensor, after: Tensor) -> WeightsBlob:
        data = encoded(codec, vector)
        blob = BlobRef(hashlib.sha256(data).hexdigest(), len(data))
        self.blobs[f"/blobs/{blob.sha256}"] = data
        return WeightsBlob(version, codec is Codec.FP32, blob, LAYOUT.weights_digest(after))


def encoded(codec: Codec, vector: Tensor) -> bytes:
    out = io.BytesIO()
    write_vector(out, codec, len(vector), encode_chunks(codec, vector))
    return out.getvalue()


@pytest.fixture(scope="module")
def run() -> Run:
    return Run()


@pytest.fixture
def replica(run: Run, tmp_path: Path) -> Replica:
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, stream=Body(run.blobs[request.url.path])))
    blobs = BlobFetcher(
        pacer=no_limit(),
        address=RunAddress.parse("https://run.example"),
        http=httpx2.Client(transport=transport),
        cache=BlobCache(tmp_path, 1 << 20),
        patience=Patience(Backoff(1, 1), fail_instead_of_waiting),
    )
    return Replica(LAYOUT, Codec.INT8, blobs)


def test_snapshot_then_updates_give_the_published_bits(run: Run, replica: Replica) -> None:
    assert torch.equal(replica.bring_to(run.grant(2, *run.steps), NEVER), run.weights[2])
    assert replica.held_version == 2


def test_held_weights_need_only_the_update(run: Run, replica: Replica) -> None:
    replica.bring_to(run.grant(0, run.steps[0]), NEVER)
    assert torch.equal(replica.bring_to(run.grant(1, run.steps[1]), NEVER), run.weights[1])
    assert torch.equal(replica.bring_to(run.grant(1), NEVER), run.weights[1])


def test_weights_that_do_not_match_their_digest_are_dropped_by_name(run: Run, replica: Replica) -> None:
    wrong = WeightsBlob(0, True, run.steps[0].blob, "f" * 64)
    with pytest.raises(LeaseLost) as lost:
        replica.bring_to(run.grant(0, wrong), NEVER)
    assert lost.value.reason == "base_digest_mismatch"
    assert not replica.has_weights


def test_another_history_of_the_held_version_is_noticed_without_any_blob(run: Run, replica: Replica) -> None:
    replica.bring_to(run.grant(0, run.steps[0]), NEVER)
    other = Run()
    other.weights[0] = other.weights[0] + 1
    with pytest.raises(LeaseLost) as lost:
        replica.bring_to(other.grant(0), NEVER)
    assert lost.value.reason == "base_digest_mismatch"
    assert not replica.has_weights


def test_an_update_that_skips_a_version_is_refused_by_name(run: Run, replica: Replica) -> None:
    with pytest.raises(LeaseLost) as lost:
        replica.bring_to(run.grant(2, run.steps[0], run.steps[2]), NEVER)
    assert lost.value.reason == "no_way_to_base"
    assert not replica.has_weights


def test_a_blob_of_another_codec_is_refused_by_name(run: Run, replica: Replica) -> None:
    as_snapshot = WeightsBlob(1, True, run.steps[1].blob, run.steps[1].weights_digest)
    with pytest.raises(LeaseLost) as lost:
        replica.bring_to(run.grant(1, as_snapshot), NEVER)
    assert lost.value.reason == "undecodable_blob"
