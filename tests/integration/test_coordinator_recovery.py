"""What a start finds and does is said: in the log, on the status, and it is what is true."""

from __future__ import annotations

import hashlib
from pathlib import Path

import grpc
import pytest

from coordinator.replay import replay
from tests.integration.live_run import encoded, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder

QUIET = ("evaluation.every_images=100000", "checkpoint.every_images=100000")


def test_start_after_a_kill_says_what_it_found_and_leaves_nothing_that_nobody_names(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, "round.images=32", "lease.probe_steps=2", "lease.max_steps=2")
    with serving(folder) as run, volunteers(run, 2) as (anna, bert):
        for number in (1, 2):
            grants = [anna.lease(), bert.lease()]
            anna.submit(grants[0], encoded(run, 0.01 * number))
            bert.submit(grants[1], encoded(run, 0.02 * number))
            run.wait_for_version(number)
        anna.submit(anna.lease(), encoded(run, 0.5))
        with pytest.raises(grpc.RpcError):
            bert.submit(bert.lease(), encoded(run, 0.25), upto=1000)
    left = {
        folder.blobs / hashlib.sha256(b"an orphan").hexdigest(): "blob",
        folder.staging / "upload-99-x.part": "upload",
        folder.staging / "update-3": "leftover",
        folder.staging / f"{'a' * 64}.bytes": "leftover",
        folder.state / "state-3.tmp": "leftover",
        folder.state / "anchor-1.safetensors": "leftover",
    }
    for path in left:
        path.write_bytes(b"half")
    for name in (".tiny-0000000032.part", "tiny-0000000032"):
        (folder.checkpoints / name).mkdir()
    with serving(folder) as run:
        found = run.status()["live"]["recovery"]
        run.wait_for_version(2)
    assert (found["version"], found["round_number"], found["round_state"]) == (2, 3, "open")
    assert (found["active_leases"], found["contributions"]) == (1, 1)
    assert (found["state_from"], found["versions_stepped_again"], found["damaged"]) == ("state-0.safetensors", 2, [])
    swept = found["swept"]
    assert (swept["uploads_kept"], swept["uploads_deleted"], swept["blobs_deleted"]) == (1, 1, 1)
    assert swept["leftovers_deleted"] == [
        "state/anchor-1.safetensors",
        "state/state-3.tmp",
        f"staging/{'a' * 64}.bytes",
        "staging/update-3",
    ]
    assert swept["checkpoints_deleted"] == [".tiny-0000000032.part", "tiny-0000000032"]
    assert [path for path in left if path.exists()] == []
    assert replay(folder).versions == 3


def test_damaged_state_is_stepped_round_at_the_start_and_reported(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, "round.images=16", "lease.probe_steps=2")
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        for number in (1, 2, 3):
            anna.submit(anna.lease(), encoded(run, 0.01 * number))
            run.wait_for_version(number)
    state = folder.state / "state-0.safetensors"
    data = bytearray(state.read_bytes())
    data[-5] ^= 16  # in the optimizer's moments, which no published digest covers
    state.write_bytes(data)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        found = run.status()["live"]["recovery"]
        assert (found["state_from"], found["versions_stepped_again"]) == ("the seed", 3)
        assert "does not have the digest it was saved with" in found["damaged"][0]
        anna.submit(anna.lease(), encoded(run, 0.5))
        run.wait_for_version(4)
    assert (folder.damaged / "state-0.safetensors").is_file()
    assert replay(folder).versions == 5
