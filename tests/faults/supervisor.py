"""Starts one coordinator after another, each to die at a point or whenever it is killed.

What must be true however it was killed is `assert_nothing_is_lost`, and, while nobody writes, `assert_no_orphans`.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from coordinator.blobs import file_sha256
from coordinator.ledger import Ledger
from coordinator.replay import replay
from coordinator.run_folder import RunFolder
from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME
from diffusion_at_home.rpc import coordinator_pb2 as pb
from tests.faults.coverage import assert_every_sample_once
from tests.faults.plan import FaultPlan, Passed, passed
from tests.faults.processes import PATIENCE_SECONDS, House, Process, wait_until
from tests.integration.live_run import LiveRun
from tests.unit.tiny_data import SHARD_SIZES

BUSY = (
    "run.total_images=1000000",
    "round.images=48",
    "round.quorum=1.0",  # so that no round closes without somebody
    "lease.probe_steps=1",
    "lease.max_steps=2",
    "evaluation.every_images=48",
    "evaluation.draws=1",
    "checkpoint.every_images=96",
    "checkpoint.sampling_steps=1",
)
"""A run that does all that a coordinator does within few seconds."""


class Supervisor:
    """One run's coordinators, one after another. What they passed is in `record`."""

    def __init__(self, home: House, folder: RunFolder, record: Path) -> None:
        self.record = record
        self._home = home
        self._folder = folder
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        """The coordinator of the moment."""
        assert self._process is not None, "start one first"
        return self._process

    def start(self, point: str | None = None, armed: Path | None = None) -> LiveRun:
        """A coordinator that is open, and will kill itself at `point` if there is one, and if `armed` is there."""
        self._process, run = self._home.coordinator(self._folder, faults=FaultPlan(self.record, point, armed=armed))
        return run

    def begin(self, point: str) -> None:
        """One that will kill itself at `point`, perhaps before it is open."""
        self._process = self._home.begin_coordinator(self._folder, faults=FaultPlan(self.record, point))

    def await_death_at(self, point: str, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Until it has killed itself there."""
        await_death_at(self.process, point, self.record, patience_seconds)

    def first(self, point: str) -> Passed:
        """When the coordinator of the moment first was at `point`."""
        pid = self.process.pid
        return next(line for line in passed(self.record) if (line.pid, line.point) == (pid, point))

    @property
    def last(self) -> Passed:
        """What was passed last."""
        return passed(self.record)[-1]


def await_death_at(process: Process, point: str, record: Path, patience_seconds: float = PATIENCE_SECONDS) -> None:
    """Until `process`, whose plan says so, has killed itself at `point`."""
    wait_until(
        lambda: process.is_gone,
        explain=lambda: f"{point!r} is not passed:\n{process.output}",
        patience_seconds=patience_seconds,
    )
    assert process.wait() == -signal.SIGKILL, process.output
    # Not the last one: another thread may pass a point while this one dies.
    own = [line.point for line in passed(record) if line.pid == process.pid]
    assert point in own, f"it died after {own[-3:]} instead of at {point!r}"


def settle(supervisor: Supervisor, folder: RunFolder) -> None:
    """Let the last coordinator end, and another one find what they all left."""
    supervisor.process.terminate()
    supervisor.start()
    # Evaluations give way to everything else on this machine.
    wait_until(lambda: not any(folder.exports.iterdir()), supervisor.process, patience_seconds=150)
    assert supervisor.process.terminate() == 0, supervisor.process.output
    assert_no_orphans(folder)


def assert_nothing_is_lost(folder: RunFolder, receipts: Sequence[pb.SubmitReply]) -> None:
    """Every receipt counts exactly once, every sample as often as it should; versions and checkpoints are as published."""
    assert_each_counts_once(folder, receipts)
    assert_every_sample_once(folder)
    assert_checkpoints_are_as_published(folder)
    replay(folder)


def assert_each_counts_once(folder: RunFolder, receipts: Sequence[pb.SubmitReply]) -> None:
    assert set(times_counted(folder, receipts)) == {1}


def times_counted(folder: RunFolder, receipts: Sequence[pb.SubmitReply]) -> list[int]:
    """How often each receipt's images count in the round that it names."""
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        rounds = range(1, ledger.newest_version().version + 2)
        counted = Counter(
            (c.contribution_id, c.images, c.round_number) for n in rounds for c in ledger.contributions(n)
        )
    return [counted[receipt.contribution_id, receipt.images, receipt.round] for receipt in receipts]


def assert_checkpoints_are_as_published(folder: RunFolder) -> None:
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        for checkpoint in ledger.checkpoints():
            manifest = folder.checkpoints / checkpoint.name / MANIFEST_NAME
            assert file_sha256(manifest) == checkpoint.manifest_sha256


def assert_no_orphans(folder: RunFolder) -> None:
    """On disk lies what the ledger names, and the uploads of leases that are still out; nothing else."""
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        uploads = {str(lease.lease_id) for lease in ledger.active_leases()}
        checkpoints = {checkpoint.name for checkpoint in ledger.checkpoints()}
        judged, judging_files = {judgement.checkpoint for judgement in ledger.judged()}, ledger.judging_files().keys()
        shards = {path.name for path in folder.blobs.iterdir()} - ledger.blob_names()
    staged = {path.name for path in folder.staging.iterdir() if path.name.split("-")[1] not in uploads}
    assert staged == set(), "what died while it was staged"
    assert len(shards) == len(SHARD_SIZES), "blobs that nothing names"
    assert {path.name for path in folder.checkpoints.iterdir()} <= checkpoints
    assert [path.name for path in folder.exports.iterdir()] == []
    assert list(folder.state.glob("*.tmp")) == []
    assert not folder.judging.exists()
    assert {path.name for path in folder.judgements.glob("*") if path.is_dir()} <= judged
    assert {f"{folder.encoder.name}/{path.name}" for path in folder.encoder.glob("*")} <= judging_files
