"""A run within a quota: it goes on, its folder stops growing, and what is left is enough for everybody."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import grpc
import pytest
import torch

from coordinator.folder_size import measure
from coordinator.housekeeping import GIB
from coordinator.ledger import Ledger
from coordinator.replay import replay
from coordinator.run_folder import RunFolder
from diffusion_at_home.config.run import Codec
from diffusion_at_home.rpc import coordinator_pb2 as pb
from diffusion_at_home.wire.vector import encode_chunks, write_vector
from tests.integration.live_run import LiveRun, Volunteer, num_parameters, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder

SMALL_ROUNDS = (
    "run.total_images=100000",
    "round.images=8",
    "lease.min_steps=1",
    "lease.probe_steps=1",
    "lease.max_steps=1",
)
LARGE_DELTAS = ("codec.delta='fp32'",)
QUIET = ("evaluation.every_images=100000", "checkpoint.every_images=100000")
OFTEN = ("evaluation.every_images=8", "checkpoint.every_images=8", "evaluation.draws=1", "evaluation.max_images=4")
PATIENCE_SECONDS = 60.0
MOST_ROUNDS = 200
LEDGER_BYTES = 5_000_000
"""Of SQLite's log, which is cut at 4 MB and counts like everything else."""


def a_delta(run: LiveRun, number: int) -> bytes:
    """Another one for each round."""
    size = num_parameters(run.folder)
    values = 0.01 * torch.randn(size, generator=torch.Generator().manual_seed(number))
    buffer = io.BytesIO()
    write_vector(buffer, Codec.FP32, size, encode_chunks(Codec.FP32, values))
    return buffer.getvalue()


def train(run: LiveRun, anna: Volunteer, upto: int) -> None:
    first = run.status()["version"] + 1
    for number in range(first, upto + 1):
        anna.submit(anna.lease(), a_delta(run, number))
        run.wait_for_version(number)


def train_until(run: LiveRun, anna: Volunteer, found: Callable[[], bool]) -> None:
    """Round after round; what is tidied is seen a round later at most."""
    for number in range(run.status()["version"] + 1, MOST_ROUNDS):
        if found():
            return
        train(run, anna, number)
    pytest.fail("the quota has changed nothing")


def until(found: Callable[[], bool]) -> None:
    deadline, pause = time.monotonic() + PATIENCE_SECONDS, threading.Event()
    while not found():
        assert time.monotonic() < deadline
        pause.wait(0.05)


def problems(run: LiveRun) -> list[str]:
    return [problem["name"] for problem in run.status()["live"]["problems"]]


def anchor_of(folder: RunFolder) -> int:
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        anchor = ledger.anchor()
    return anchor.version if anchor else 0


def size_of(folder: RunFolder) -> int:
    return measure(folder.root).total_bytes


def with_quota(tmp_path: Path, spare_bytes: int, *overrides: str) -> tuple[RunFolder, int]:
    """A run that may grow by `spare_bytes`."""
    size = size_of(tiny_run_folder(tmp_path / "probe", *SMALL_ROUNDS, *LARGE_DELTAS, *overrides))
    quota = size + spare_bytes
    folder = tiny_run_folder(tmp_path, *SMALL_ROUNDS, *LARGE_DELTAS, *overrides, f"storage.quota_gib={quota / GIB}")
    return folder, quota


def test_run_goes_on_within_its_quota_and_is_replayed_from_its_anchor(tmp_path: Path) -> None:
    folder, quota = with_quota(tmp_path, LEDGER_BYTES + 1_500_000, *QUIET)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        train_until(run, anna, lambda: anchor_of(folder) > 0)
        before = anchor_of(folder)
        train_until(run, anna, lambda: anchor_of(folder) > before)
        one_state = folder.state / f"anchor-{anchor_of(folder)}.safetensors"
        until(lambda: size_of(folder) <= quota + one_state.stat().st_size)
        assert problems(run) == []
        reached = run.status()["version"]
        for held in range(0, reached + 1, 10):
            lease = anna.lease(held_version=held, has_weights=True)
            for blob in lease.catch_up:
                assert len(run.get(f"/blobs/{blob.sha256}").content) == blob.size_bytes
            anna.release(lease.lease_id)
        found = replay(folder)
    assert found.versions == reached + 1
    assert found.from_version > before
    assert found.contributions == reached - found.from_version
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        swept = run.status()["live"]["recovery"]["swept"]
        assert (swept["blobs_deleted"], swept["leftovers_deleted"]) == (0, [])
        train(run, anna, reached + 3)
    assert replay(folder).versions == reached + 4


def test_same_run_without_a_quota_keeps_everything(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *SMALL_ROUNDS, *LARGE_DELTAS, *QUIET)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        train(run, anna, 30)
        with closing(Ledger(folder.ledger, read_only=True)) as ledger:
            names = [v.update_sha256 for v in ledger.versions()[1:]] + [d.sha256 for d in ledger.held_deltas()]
        assert len(names) == 60
        assert all((folder.blobs / name).is_file() for name in names)
    assert replay(folder).from_version == 0


def test_quota_that_cannot_be_kept_is_a_named_problem_and_no_reason_to_stop(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *SMALL_ROUNDS, *LARGE_DELTAS, *QUIET, "storage.quota_gib=0.00001")
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        train(run, anna, 3)
        until(lambda: problems(run) == ["quota_exceeded"])
        (problem,) = run.status()["live"]["problems"]
        assert "GiB above storage.quota_gib" in problem["sentence"]
        assert b'dah_problems{kind="quota_exceeded"} 1.0' in run.get("/metrics").content
        train(run, anna, 6)
    assert replay(folder).versions == 7


def test_checkpoints_are_thinned_and_the_others_stay_whole(tmp_path: Path) -> None:
    folder, _ = with_quota(tmp_path, 2_500_000, *OFTEN, "checkpoint.sampling_steps=1")
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        for number in range(1, 13):
            train(run, anna, number)
            until(lambda: not list(folder.exports.iterdir()))
    with serving(folder) as run:  # nothing goes until the next version
        names = [f"tiny-{8 * number:010d}" for number in range(1, 13)]
        listing = run.get("/checkpoints.json").json()
        left = [checkpoint["name"] for checkpoint in listing["checkpoints"]]
        assert len(left) < len(names)
        assert left[0] == names[0]
        assert {listing["best"], listing["latest"]} <= set(left)
        assert sorted(path.name for path in folder.checkpoints.iterdir()) == left
        for name in names:
            status = run.get(f"/checkpoints/{name}/model_index.json").status_code
            assert status == (200 if name in left else 404)


def test_identical_contributions_are_one_blob_that_stays_while_any_of_them_is_needed(tmp_path: Path) -> None:
    folder, _ = with_quota(tmp_path, LEDGER_BYTES + 1_500_000, *QUIET)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        same = a_delta(run, 0)
        for number in range(1, MOST_ROUNDS):
            anna.submit(anna.lease(), same if number % 2 else a_delta(run, number))
            run.wait_for_version(number)
            if anchor_of(folder) > 0:
                break
        found = replay(folder)
        assert 0 < found.from_version < found.versions - 1


def test_upload_for_a_round_that_is_under_way_survives_housekeeping(tmp_path: Path) -> None:
    folder, _ = with_quota(tmp_path, LEDGER_BYTES + 1_000_000, *QUIET)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        train(run, anna, 20)
        grant, data = anna.lease(), a_delta(run, 99)
        with pytest.raises(grpc.RpcError):
            anna.submit(grant, data, upto=1000)
        threading.Event().wait(0.5)
        assert anna.offset(grant.lease_id, data) == 1000
        assert anna.submit(grant, data, offset=1000).round == grant.round
        assert anna.beat(0).order == pb.HeartbeatReply.ORDER_CONTINUE
