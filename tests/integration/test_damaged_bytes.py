"""A byte flips on the coordinator's disk: in a blob, a checkpoint, the ledger. It is found, named, and got round."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from coordinator.app import Coordinator
from coordinator.ledger import Ledger
from coordinator.records import Version
from coordinator.replay import replay
from coordinator.run_folder import RunFolder
from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME
from diffusion_at_home.errors import IntegrityError
from tests.integration.daemon_here import work_here
from tests.integration.damage import ROUNDS, flip, problems, train, until
from tests.integration.live_run import encoded, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder
from worker.loop import Goal

QUIET = ("evaluation.every_images=100000", "checkpoint.every_images=100000")
NO_SCRUBBING = ("storage.scrub_mb_per_second=0",)
CHECKPOINTS = (
    "run.total_images=24",
    "evaluation.every_images=8",
    "checkpoint.every_images=8",
    "evaluation.draws=1",
    "evaluation.max_images=4",
    "checkpoint.sampling_steps=1",
)


def history(folder: RunFolder) -> list[Version]:
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        return ledger.versions()


def sound(response: httpx2.Response, sha256: str) -> bool:
    return response.status_code == 200 and hashlib.sha256(response.content).hexdigest() == sha256


def test_flipped_snapshot_is_served_until_it_is_found_and_refused_by_whoever_joins(tmp_path: Path) -> None:
    """What happens without the scrubber: nobody can join, and nobody says why."""
    folder = tiny_run_folder(tmp_path, *QUIET, *ROUNDS, *NO_SCRUBBING)
    name = history(folder)[0].snapshot_sha256
    flip(folder.blobs / name)
    with serving(folder) as run:
        response = run.get(f"/blobs/{name}")
        assert response.status_code == 200
        assert not sound(response, name)
        status = work_here(tmp_path / "worker", run.url, Goal(leases=1), stop_when=lambda s: "wrong_blob" in s.refusals)
        assert (status.leases_done, set(status.refusals)) == (0, {"wrong_blob"})
        assert problems(run) == {}


def test_flipped_snapshot_is_found_set_aside_and_written_anew(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, *ROUNDS)
    name = history(folder)[0].snapshot_sha256
    flip(folder.blobs / name)
    with serving(folder) as run:
        until(lambda: (folder.damaged / name).is_file() and sound(run.get(f"/blobs/{name}"), name))
        until(lambda: problems(run) == {})
        status = work_here(tmp_path / "worker", run.url, Goal(leases=2))
        assert status.refusals == {}
    assert replay(folder).versions >= 2


def test_flipped_update_is_never_served_again_and_joiners_go_another_way(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, *ROUNDS, "run.total_images=100000")
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        train(run, anna, 3)
    name = history(folder)[2].update_sha256
    flip(folder.blobs / name)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        until((folder.damaged / name).is_file)
        assert run.get(f"/blobs/{name}").status_code == 404
        until(lambda: problems(run) == {})
        for held in (0, 1, 2):
            for blob in anna.lease(held_version=held, has_weights=True).catch_up:
                assert blob.sha256 != name
                assert sound(run.get(f"/blobs/{blob.sha256}"), blob.sha256)
        train(run, anna, 5)
    assert replay(folder).versions == 6


@pytest.mark.parametrize("lost", ["flipped", "missing"])
def test_shard_that_cannot_be_made_again_is_named_until_it_is_restored(tmp_path: Path, lost: str) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, *ROUNDS)
    shard = next(path for path in folder.blobs.iterdir() if path.stat().st_nlink == 2)
    copy = shard.read_bytes()
    shard.unlink()
    if lost == "flipped":
        shard.write_bytes(copy)
        flip(shard)
    with serving(folder) as run:
        until(lambda: f"damaged:{shard.name}" in problems(run))
        assert "shard train-" in problems(run)[f"damaged:{shard.name}"]
        assert f"restore {shard} from a backup" in problems(run)[f"damaged:{shard.name}"]
        until(lambda: run.get(f"/blobs/{shard.name}").status_code == 404)
    with serving(folder) as run:
        assert f"damaged:{shard.name}" in problems(run)  # also after a restart
    shard.write_bytes(copy)
    with serving(folder) as run:
        assert problems(run) == {}
        assert sound(run.get(f"/blobs/{shard.name}"), shard.name)


def test_round_waits_for_a_contribution_that_cannot_be_read_and_goes_on_once_it_is_restored(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, "round.images=32", "lease.probe_steps=2", *NO_SCRUBBING)
    with serving(folder) as run, volunteers(run, 2) as (anna, bert):
        grants = [anna.lease(), bert.lease()]
        data = encoded(run, 0.5)
        anna.submit(grants[0], data)
        blob = folder.blobs / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data[:-1000])
        bert.submit(grants[1], encoded(run, 0.25))
        until(lambda: "damaged:round-1" in problems(run))
        assert "round 1 cannot be published" in problems(run)["damaged:round-1"]
        assert "from a backup" in problems(run)["damaged:round-1"]
        assert run.status()["version"] == 0
        blob.write_bytes(data)
        until(lambda: run.status()["version"] == 1)
        assert problems(run) == {}
    assert replay(folder).contributions == 2


def test_contribution_that_flips_while_nobody_runs_is_found_at_the_start(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, "round.images=32", "lease.probe_steps=2", *NO_SCRUBBING)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        data = encoded(run, 0.5)
        anna.submit(anna.lease(), data)
    blob = folder.blobs / hashlib.sha256(data).hexdigest()
    flip(blob)
    with serving(folder) as run, volunteers(run, 1) as (bert,):
        assert f"damaged:{blob.name}" in problems(run)
        bert.submit(bert.lease(), encoded(run, 0.25))
        until(lambda: "damaged:round-1" in problems(run))
        blob.write_bytes(data)
        run.wait_for_version(1)
    assert replay(folder).contributions == 2


def test_damaged_checkpoint_is_no_longer_offered_and_the_next_best_is(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ROUNDS, *CHECKPOINTS)
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        train(run, anna, 3)
        until(lambda: bool(run.status()["live"]["complete"]))
        before = run.get("/checkpoints.json").json()
    names = [checkpoint["name"] for checkpoint in before["checkpoints"]]
    assert len(names) == 3
    flip(folder.checkpoints / before["latest"] / "transformer/diffusion_pytorch_model.safetensors")
    with serving(folder) as run:
        until(lambda: f"damaged:{before['latest']}" in problems(run))  # the last of what is done about it
        after = run.get("/checkpoints.json").json()
        assert after["latest"] == names[1]
        assert after["best"] in names[:2]
        assert run.get(f"/checkpoints/{before['latest']}/{MANIFEST_NAME}").status_code == 404
        assert (folder.damaged / before["latest"] / MANIFEST_NAME).is_file()
    with serving(folder) as run:
        assert f"damaged:{before['latest']}" in problems(run)
        assert run.get("/checkpoints.json").json()["latest"] == names[1]


def damage_pages(data: bytearray, *pages: int) -> bytearray:
    for page in pages:
        data[page * 4096 : page * 4096 + 8] = b"\xff" * 8  # the header of a b-tree page
    return data


LEDGER_DAMAGE: dict[str, Callable[[bytearray], bytearray]] = {
    "its header": lambda data: data[:20] + b"\xff" * 40 + data[60:],
    "one page": lambda data: damage_pages(data, 5),
    "every page but the first": lambda data: damage_pages(data, *range(2, len(data) // 4096)),
    "its second half": lambda data: data[: len(data) // 2],
}


@pytest.mark.parametrize("how", LEDGER_DAMAGE)
def test_damaged_ledger_is_refused_with_the_way_back(tmp_path: Path, how: str) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, *ROUNDS)
    folder.ledger.write_bytes(LEDGER_DAMAGE[how](bytearray(folder.ledger.read_bytes())))
    with pytest.raises(IntegrityError, match=r"ledger\.sqlite is damaged .*`dah coordinator restore`"):
        Coordinator(folder)
