import hashlib
import json
from pathlib import Path

import pytest
import torch

from diffusion_at_home.config.run import Codec
from diffusion_at_home.kept_weights import KeptWeights
from diffusion_at_home.wire.vector import VectorReader
from tests.unit.tiny_run import no_residual
from worker.grant import LeaseId
from worker.outbox import Outbox
from worker.trainer import Trained

TRAINED = Trained(delta=torch.arange(1000.0), images=64, seconds=1.25, mean_loss=0.5, weights=KeptWeights.EXACT)


def test_a_new_process_finds_what_the_last_one_could_not_send(tmp_path: Path) -> None:
    put = Outbox(tmp_path, no_residual()).put(LeaseId(9), "0" * 64, TRAINED, Codec.FP32)
    outbox = Outbox(tmp_path, no_residual())
    assert outbox.recover() == [put]
    assert (put.lease_id, put.images, put.train_ms, put.mean_loss) == (9, 64, 1250, 0.5)
    delta = torch.empty(1000)
    VectorReader(memoryview(outbox.vector(put).read_bytes()), Codec.FP32, 1000).copy_to(delta)
    assert torch.equal(delta, TRAINED.delta)


def test_what_a_crash_left_incomplete_is_deleted(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, no_residual())
    put = outbox.put(LeaseId(1), "0" * 64, TRAINED, Codec.INT8)
    outbox.put(LeaseId(2), "0" * 64, TRAINED, Codec.INT8)
    (tmp_path / "lease-1.json").write_text('{"lease_id": 1')
    (tmp_path / "lease-2.dahv").unlink()
    (tmp_path / "lease-3.dahv").write_bytes(outbox.vector(put).read_bytes())
    assert outbox.recover() == []
    assert list(tmp_path.iterdir()) == []


def test_the_announced_digest_and_size_are_those_of_the_file(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, no_residual())
    put = outbox.put(LeaseId(1), "0" * 64, TRAINED, Codec.INT8)
    data = outbox.vector(put).read_bytes()
    assert put.size_bytes == len(data)
    assert put.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "change", [("images", 2**64), ("lease_id", 10**4000), ("lease_id", 2), ("train_ms", -1), ("sha256", "../x")]
)
def test_facts_that_no_process_of_ours_has_written_are_deleted(tmp_path: Path, change: tuple[str, int | str]) -> None:
    outbox = Outbox(tmp_path, no_residual())
    outbox.put(LeaseId(1), "0" * 64, TRAINED, Codec.INT8)
    path = tmp_path / "lease-1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict([change])))
    assert outbox.recover() == []
    assert list(tmp_path.iterdir()) == []
