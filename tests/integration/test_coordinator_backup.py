"""A backup is the run at one instant, whole after whatever befalls the next one; what is restored from it is the run."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest

from coordinator.backup import BackedUp, Mark, back_up
from coordinator.ledger import Ledger
from coordinator.parts import state_version
from coordinator.records import LeaseId
from coordinator.replay import replay
from coordinator.restore import SKIPPED_NUMBERS, restore
from coordinator.run_folder import RunFolder
from diffusion_at_home.checkpoint.verify import verify
from diffusion_at_home.errors import ConfigError, IntegrityError, StorageError
from diffusion_at_home.rpc import coordinator_pb2 as pb
from tests.integration.command_line import dah
from tests.integration.live_run import LiveRun, Volunteer, encoded, refusal, serving, volunteers
from tests.postgres_server import PostgresServer
from tests.unit.tiny_data import tiny_run_folder

EQUAL_LEASES = ("round.images=32", "lease.min_steps=2", "lease.probe_steps=2", "lease.max_steps=2")
ONE_CHECKPOINT = (
    "evaluation.every_images=100000",
    "checkpoint.every_images=64",
    "evaluation.draws=1",
    "checkpoint.sampling_steps=1",
)
ROUNDS = 3


def play(run: LiveRun, workers: list[Volunteer], number: int) -> None:
    """One round of two contributions."""
    leases = [worker.lease() for worker in workers]
    for worker, lease in zip(workers, leases, strict=True):
        worker.submit(lease, encoded(run, 0.01 * number + 0.001 * lease.ranges[0].start))
    run.wait_for_version(number)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of some rounds with a checkpoint; not to be changed."""
    folder = tiny_run_folder(tmp_path_factory.mktemp("stopped"), *EQUAL_LEASES, *ONE_CHECKPOINT)
    with serving(folder) as run, volunteers(run, 2) as workers:
        for number in range(1, ROUNDS + 1):
            play(run, workers, number)
        while not run.status()["checkpoints"]:
            pass
    return folder


@pytest.fixture(scope="module")
def taken(stopped: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Its backup; not to be changed."""
    out = RunFolder(tmp_path_factory.mktemp("taken") / "backup")
    back_up(stopped, out)
    return out


@pytest.fixture
def folder(stopped: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of the run to tamper with."""
    return RunFolder(shutil.copytree(stopped.root, tmp_path / "run"))


@pytest.fixture
def backup(taken: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of the backup to tamper with."""
    return RunFolder(shutil.copytree(taken.root, tmp_path / "backup"))


def files(folder: RunFolder) -> dict[str, bytes]:
    return {str(path.relative_to(folder.root)): path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def advance(folder: RunFolder, rounds: int) -> None:
    """So many rounds more."""
    with serving(folder) as run, volunteers(run, 2) as workers:
        newest = run.status()["version"]
        for number in range(newest + 1, newest + rounds + 1):
            play(run, workers, number)


def any_contribution(folder: RunFolder) -> Path:
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        return folder.blobs / ledger.contributions(1)[0].sha256


# -- taking one ---------------------------------------------------------------------------------------------------------


def test_backup_is_the_run_and_may_be_looked_at_as_one(stopped: RunFolder, taken: RunFolder) -> None:
    before = files(taken)
    assert replay(taken) == replay(stopped)
    (checkpoint,) = dah("coordinator", "status", taken.root, "--json").result["checkpoints"]
    assert verify(taken.checkpoints / checkpoint).images == 64
    assert files(taken) == before, "looking at it has changed it"
    assert not list(taken.root.glob("ledger.sqlite-*")), "a ledger that needs a log beside it is not one file"


def test_backup_of_a_run_whose_ledger_a_server_has_needs_none(tmp_path: Path, postgres: PostgresServer) -> None:
    folder = postgres.take_in(tiny_run_folder(tmp_path, *EQUAL_LEASES))
    out, restored = RunFolder(tmp_path / "out"), RunFolder(tmp_path / "restored")
    back_up(folder, out)
    restore(out, restored)
    assert restored.ledger == restored.ledger_file
    assert not out.ledger_url.exists()
    with closing(Ledger(restored.ledger)) as copied, closing(Ledger(folder.ledger)) as ledger:
        assert copied.versions() == ledger.versions()
        assert copied.pool() == ledger.pool()


def test_live_run_is_backed_up_in_mid_round(tmp_path: Path) -> None:
    folder, out = tiny_run_folder(tmp_path, *EQUAL_LEASES, *ONE_CHECKPOINT), RunFolder(tmp_path / "backup")
    with serving(folder) as run, volunteers(run, 2) as (anna, bert):
        play(run, [anna, bert], 1)
        anna.submit(anna.lease(), encoded(run, 0.5))
        data, upload = encoded(run, 0.25), bert.lease()
        with pytest.raises(grpc.RpcError):
            bert.submit(upload, data, upto=1000)
        found = back_up(folder, out)
        assert (found.version, found.contributions) == (1, 3)
        bert.submit(upload, data, offset=1000)
        run.wait_for_version(2)
    assert replay(out).versions == 2
    assert not out.staging.exists(), "half an upload is worth nothing elsewhere"


def test_backup_whose_snapshots_are_deleted_meanwhile_begins_again(tmp_path: Path) -> None:
    one_lease = ("round.images=8", "lease.min_steps=1", "lease.probe_steps=1", "lease.max_steps=1")
    quiet = ("evaluation.every_images=1000000", "checkpoint.every_images=1000000", "run.total_images=1000000")
    folder, out = tiny_run_folder(tmp_path, *one_lease, *quiet), RunFolder(tmp_path / "backup")
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        spec = folder.blobs / ledger.spec_sha256()
    data = spec.read_bytes()
    with serving(folder) as run, volunteers(run, 1) as (anna,), ThreadPoolExecutor(1) as thread:
        before, _ = snapshots(folder), encoded(run)  # which remembers what it needs of the specification
        spec.unlink()
        os.mkfifo(spec)  # read once the ledger is copied, and not before somebody writes into it
        found = thread.submit(back_up, folder, out)
        with spec.open("wb") as pipe:
            number = 0
            while any((folder.root / name).exists() for name in before):
                number += 1
                play(run, [anna], number)
            (tmp_path / "spec").write_bytes(data)
            (tmp_path / "spec").replace(spec)
            pipe.write(data)
        assert found.result().version == number
    assert replay(out).versions == number + 1


def test_second_backup_copies_only_what_is_new_and_drops_what_is_old(folder: RunFolder, tmp_path: Path) -> None:
    out = RunFolder(tmp_path / "backup")
    first = back_up(folder, out)
    assert first.copied_files == first.files
    again = back_up(folder, out)
    assert (again.files, again.copied_files) == (first.files, 1), "the ledger is always new"
    advance(folder, 2)
    second = back_up(folder, out)
    assert 2 * 3 <= second.copied_files - 2 <= 2 * 3 + 1, "two rounds are two contributions and an update each"
    assert len(files(out)) == second.files + 2, "the mark and the lock"
    assert replay(out) == replay(folder)
    assert Mark.load(out).taken[0].version == ROUNDS + 2


def only_state(folder: RunFolder) -> Path:
    """The newest one; with the others gone there is none to fall back on."""
    newest, *others = sorted(folder.state.iterdir(), key=lambda path: -state_version(path.name))
    for path in others:
        path.unlink()
    return newest


LOSSES: dict[str, Callable[[RunFolder], Path]] = {
    "a contribution": any_contribution,
    "a state": only_state,
    "a held-out shard": lambda folder: next(folder.held_out.iterdir()),
    "a checkpoint's weights": lambda folder: min(folder.checkpoints.rglob("diffusion_pytorch_model.safetensors")),
    "a checkpoint's manifest": lambda folder: min(folder.checkpoints.rglob("manifest.json")),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("fault", ["damaged", "missing"])
def test_what_the_run_has_lost_is_named_and_the_former_backup_stays_whole(
    folder: RunFolder, tmp_path: Path, loss: str, fault: str
) -> None:
    out = RunFolder(tmp_path / "backup")
    back_up(folder, out)
    before = restored_content(out, tmp_path / "before")
    advance(folder, 1)
    path = LOSSES[loss](folder)
    there, kept = path.read_bytes(), out.root / path.relative_to(folder.root)
    if kept.exists():  # so that it has to be copied again
        kept.rename(tmp_path / "kept")
    damage(path) if fault == "damaged" else path.unlink()
    with pytest.raises(IntegrityError, match=f"{re.escape(str(path.parent))}/.* is {fault}"):
        back_up(folder, out)
    path.write_bytes(there)
    if (tmp_path / "kept").exists():
        (tmp_path / "kept").rename(kept)
    assert restored_content(out, tmp_path / "after") == before
    assert back_up(folder, out).version == ROUNDS + 1


def test_damaged_ledger_is_named(folder: RunFolder, tmp_path: Path) -> None:
    with folder.ledger.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)
    with pytest.raises(IntegrityError, match=r"ledger\.sqlite is damaged"):
        back_up(folder, RunFolder(tmp_path / "backup"))


def restored_content(out: RunFolder, place: Path) -> dict[str, bytes]:
    """What is restored, but for the ledger's bytes."""
    restore(out, RunFolder(place))
    found = files(RunFolder(place))
    del found["ledger.sqlite"]
    return found


def test_full_disk_leaves_the_former_backup_whole(folder: RunFolder, tmp_path: Path) -> None:
    out = RunFolder(tmp_path / "backup")
    back_up(folder, out)
    before = files(out)
    advance(folder, 1)
    said = dah("coordinator", "backup", folder.root, out.root, largest_file=4_096).refuses(StorageError.exit_code)
    assert "free some space" in said
    assert {name: data for name, data in files(out).items() if name in before} == before
    assert restored_content(out, tmp_path / "restored")


@pytest.mark.parametrize("replaced", [False, True], ids=["before", "after"])
def test_process_that_dies_as_the_ledger_is_replaced_leaves_one_backup_or_the_other(
    folder: RunFolder, tmp_path: Path, replaced: bool
) -> None:
    out, former = RunFolder(tmp_path / "backup"), RunFolder(tmp_path / "former")
    back_up(folder, out)
    shutil.copytree(out.root, former.root)
    advance(folder, 1)
    back_up(folder, out)
    marks = (Mark.load(former), Mark.load(out))
    Mark(run_id=marks[0].run_id, taken=(*marks[0].taken, *marks[1].taken)).save(out)
    for name in set(files(former)) - set(files(out)):  # what the former one alone needs goes later
        shutil.copyfile(former.root / name, out.root / name)
    if not replaced:
        shutil.copyfile(former.ledger, out.ledger)
    assert restore(out, RunFolder(tmp_path / "restored")).version == ROUNDS + replaced
    assert back_up(folder, out).version == ROUNDS + 1
    assert len(Mark.load(out).taken) == 1


def test_place_that_is_taken_is_refused(folder: RunFolder, backup: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    other = tiny_run_folder(tmp_path / "other")
    for run, out, sentence in (
        (folder, tmp_path / "full", "is not empty and no backup: choose a new folder"),
        (folder, folder.root / "backup", "lies in the run's own folder"),
        (folder, folder.root, "lies in the run's own folder"),
        (other, backup.root, "is a backup of the run tiny-[0-9a-f]*, not of tiny-[0-9a-f]*: choose another folder"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            back_up(run, RunFolder(out))


def test_backup_of_another_line_of_the_run_is_never_overwritten(
    folder: RunFolder, backup: RunFolder, tmp_path: Path
) -> None:
    """As when the old coordinator and the restored one both go on, or what was restored is older than the backup."""
    restored = RunFolder(tmp_path / "restored")
    restore(backup, restored)
    advance(folder, 1)
    back_up(folder, backup)
    ahead = f"holds version {ROUNDS + 1}, which the run in .* has not or has otherwise: choose a new folder"
    with pytest.raises(ConfigError, match=ahead):
        back_up(restored, backup)
    with serving(restored) as run, volunteers(run, 2) as workers:
        other_round(run, workers)
    with pytest.raises(ConfigError, match=ahead):
        back_up(restored, backup)
    assert Mark.load(backup).taken[0].version == ROUNDS + 1
    assert restored_content(backup, tmp_path / "again")


def other_round(run: LiveRun, workers: list[Volunteer]) -> None:
    for worker in workers:
        worker.submit(worker.lease(), encoded(run, -0.7))
    run.wait_for_version(ROUNDS + 1)


def test_backup_is_not_served(backup: RunFolder) -> None:
    before = files(backup)
    said = dah("coordinator", "run", backup.root).refuses(ConfigError.exit_code)
    assert said.startswith(f"{backup.root} is a backup: make a run of it with `dah coordinator restore")
    assert files(backup) == before


# -- restoring one ------------------------------------------------------------------------------------------------------


def test_commands_take_and_restore_a_backup(folder: RunFolder, tmp_path: Path) -> None:
    backed_up = BackedUp(**dah("coordinator", "backup", folder.root, tmp_path / "out", "--json").result)
    shutil.move(folder.root, tmp_path / "gone")
    made = dah("coordinator", "restore", tmp_path / "out", folder.root, "--json").result
    assert (made["version"], made["images"]) == (backed_up.version, backed_up.images) == (ROUNDS, 32 * ROUNDS)
    assert dah("coordinator", "replay", folder.root, "--json").result["versions"] == ROUNDS + 1


def test_folder_that_is_taken_and_a_backup_that_is_none_are_refused(
    stopped: RunFolder, taken: RunFolder, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"{stopped.root} is not empty: choose a new folder for the run"):
        restore(taken, stopped)
    with pytest.raises(ConfigError, match=f"{stopped.root} is not a backup: make one with `dah coordinator backup`"):
        restore(stopped, RunFolder(tmp_path / "new"))
    never_completed = RunFolder(tmp_path / "backup")
    never_completed.root.mkdir()
    Mark(run_id="tiny-00000000").save(never_completed)
    with pytest.raises(ConfigError, match="holds no complete backup"):
        restore(never_completed, RunFolder(tmp_path / "new"))


def test_restored_run_knows_its_sessions_and_leases_and_gives_new_numbers(folder: RunFolder, tmp_path: Path) -> None:
    out, restored = RunFolder(tmp_path / "backup"), RunFolder(tmp_path / "restored")
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        held = anna.lease()
        back_up(folder, out)
        receipt = anna.submit(held, encoded(run, 0.5))
    restore(out, restored)
    with serving(restored) as run, the_same(run, anna) as anna:
        assert anna.beat(held.lease_id).order == pb.HeartbeatReply.ORDER_CONTINUE
        again = anna.submit(held, encoded(run, 0.5))
        assert again.contribution_id == receipt.contribution_id + SKIPPED_NUMBERS
        assert anna.lease().lease_id == held.lease_id + SKIPPED_NUMBERS + 1
    assert replay(restored).versions == ROUNDS + 1


@contextmanager
def the_same(run: LiveRun, before: Volunteer) -> Iterator[Volunteer]:
    """`before`, with its key and session."""
    volunteer = Volunteer(run)
    volunteer.token, volunteer.identity = before.token, before.identity
    yield volunteer
    volunteer.channel.close()


@pytest.mark.parametrize("fault", ["damaged", "missing"])
def test_whatever_of_a_backup_is_damaged_or_missing_is_named(
    taken: RunFolder, backup: RunFolder, tmp_path: Path, fault: str
) -> None:
    old_snapshots = snapshots(taken)[:-1] if fault == "missing" else []  # one is enough
    names = [name for name in files(taken) if name not in {"backup.json", "backup.lock", *old_snapshots}]
    assert len(names) > 20
    for name in names:
        path = backup.root / name
        damage(path) if fault == "damaged" else path.unlink()
        with pytest.raises(IntegrityError, match=f"{re.escape(str(path))} is {fault}.* another backup"):
            restore(backup, RunFolder(tmp_path / "restored"))
        assert not (tmp_path / "restored").exists()
        shutil.copyfile(taken.root / name, path)
    restore(backup, RunFolder(tmp_path / "restored"))


def test_mark_that_is_damaged_is_named(backup: RunFolder, tmp_path: Path) -> None:
    backup.backup_mark.write_text(backup.backup_mark.read_text().replace("sha256", "sha257"))
    with pytest.raises(IntegrityError, match=r"backup\.json is damaged .*: use another backup"):
        restore(backup, RunFolder(tmp_path / "restored"))


def snapshots(folder: RunFolder) -> list[str]:
    """Those that are there, oldest first."""
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        named = [f"blobs/{version.snapshot_sha256}" for version in ledger.versions() if version.snapshot_sha256]
    return [name for name in named if (folder.root / name).is_file()]


def test_lease_number_of_the_lost_time_never_counts(tmp_path: Path) -> None:
    """The worker that had it has trained other data than what has that number now."""
    folder = tiny_run_folder(tmp_path, *EQUAL_LEASES, *ONE_CHECKPOINT)
    out, restored = RunFolder(tmp_path / "backup"), RunFolder(tmp_path / "restored")
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        back_up(folder, out)
        lost, data = anna.lease(), encoded(run, 0.5)
    restore(out, restored)
    with serving(restored) as run, the_same(run, anna) as again:
        grants = [again.lease() for _ in range(3)]
        assert lost.lease_id not in {grant.lease_id for grant in grants}
        with pytest.raises(grpc.RpcError) as raised:
            again.submit(lost, data)
        assert refusal(raised.value) == (grpc.StatusCode.NOT_FOUND, "REFUSAL_UNKNOWN_LEASE")
        beat = again.beat(lost.lease_id)
        assert (beat.order, beat.reason) == (pb.HeartbeatReply.ORDER_ABANDON, pb.REFUSAL_UNKNOWN_LEASE)


def test_without_the_jump_it_would_count_for_other_data(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *EQUAL_LEASES, *ONE_CHECKPOINT)
    out, restored = RunFolder(tmp_path / "backup"), RunFolder(tmp_path / "restored")
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        back_up(folder, out)
        anna.release(anna.lease().lease_id)
        lost, data = anna.lease(), encoded(run, 0.5)
    restore(out, restored)
    with closing(sqlite3.connect(restored.ledger)) as raw, raw:
        raw.execute("UPDATE sqlite_sequence SET seq = seq - ?", (SKIPPED_NUMBERS,))
    with serving(restored) as run, the_same(run, anna) as again:
        again.lease()
        grant = again.lease()
        assert grant.lease_id == lost.lease_id == LeaseId(2)
        assert again.submit(lost, data).images == lost.quota_images
