"""A run that nobody has trained: rows of its ledger by the hundred thousand, and its pages as a coordinator would serve them.

Everything is drawn from one seed. No torch, no data, no workers: the pages read the ledger, and little else.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import sqlalchemy as sa

from coordinator import tables
from coordinator.admission import Admission
from coordinator.checkpoints import Checkpoints
from coordinator.data_pool import DataPool
from coordinator.dispatcher import AtWork
from coordinator.judging.published import Judgements
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.problems import Problems
from coordinator.records import ActionKind, Fault, Lease, LeaseId, LeaseState, RoundState, Weights, now_ms
from coordinator.refusal_book import this_day
from coordinator.run_folder import RunFolder
from coordinator.signatures import Signatures
from coordinator.standing import Standing
from coordinator.status import JudgingStatus, LiveStatus, WorkerStatus
from coordinator.web.site import Site
from coordinator.web.sources import DiskNow, Sources
from diffusion_at_home.checkpoint.manifest import (
    MANIFEST_NAME,
    CheckpointManifest,
    Contributor,
    DataOrigin,
    FileEntry,
)
from diffusion_at_home.clock import Clock, SystemClock
from diffusion_at_home.config.run import RunConfig, ServerSection
from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.data.manifest import DataManifest, ShardEntry
from diffusion_at_home.data.order import DataCursor, ShardRange
from diffusion_at_home.identity import WorkerId
from diffusion_at_home.runspec import RunSpec

SHA: Final = "a" * 64
_SETTINGS: Final = (
    "run.name='year'",
    "run.title='A year of pictures'",
    "run.total_images=2_000_000_000",
    "data.path='nowhere'",
    "model.image_size=64",
    "inner.batch_images=64",
    "round.images=65536",
    "ema.half_life_images=100_000",
    "evaluation.every_images=65536",
    "checkpoint.every_images=5_000_000",
    "checkpoint.grid_prompts=['a red fox in the snow', 'a lighthouse at dusk']",
)
_CHUNK: Final = 20_000
_DISK: Final = DiskNow(
    used_bytes=310_000_000_000,
    quota_bytes=500_000_000_000,
    free_bytes=420_000_000_000,
    growth_bytes_per_day=12_000_000_000,
    days_to_end=200.0,
    needed_bytes=190_000_000_000,
    days_to_quota=15.8,
    days_to_full=None,
    goes_first="updates up to version 25998, which no snapshot needs",
)


@dataclass(frozen=True, slots=True)
class Extent:
    """How much there is."""

    workers: int
    rounds: int
    contributions: int
    live: int
    """Workers that are there."""
    shards: int = 2000
    checkpoints: int = 300
    actions: int = 500
    round_images: int = 65_536
    round_seconds: int = 1200
    names: Sequence[str] = field(default=())
    """Of the first workers and of their teams; the others have names and teams of their own, or none."""


YEAR: Final = Extent(workers=10_000, rounds=26_000, contributions=300_000, live=2_000)


@dataclass(frozen=True, slots=True)
class MadeUp:
    """What was made."""

    folder: RunFolder
    spec: RunSpec
    extent: Extent

    @property
    def newest_checkpoint(self) -> str:
        """The one that has a manifest."""
        return _name(_exported(self.extent)[-1], self.extent)


def make(root: Path, extent: Extent, *overrides: str, seed: int = 0) -> MadeUp:
    """The run in `root`, which must not be there."""
    folder = RunFolder(root)
    root.mkdir(parents=True)
    folder.checkpoints.mkdir()
    spec = _spec(extent, overrides)
    pool = DataPool(DataCursor(epoch=3, position=extent.shards // 2, offset=7), (ShardRange(3, 0, 0, 5),))
    Ledger.create(folder.ledger, run_id=spec.run_id, spec_sha256=SHA, pool=pool).close()
    engine = sa.create_engine(f"sqlite:///{folder.ledger}")
    with engine.begin() as tx:
        for table, rows in _rows(extent, random.Random(seed)):  # noqa: S311 -- no secret
            for start in range(0, len(rows), _CHUNK):
                tx.execute(sa.insert(table), rows[start : start + _CHUNK])
    engine.dispose()
    made = MadeUp(folder, spec, extent)
    if extent.checkpoints:
        _write_manifest(made)
    return made


@contextmanager
def site_of(made: MadeUp, clock: Clock | None = None) -> Iterator[Site]:
    """Its pages, as a coordinator would have them."""
    problems = Problems()
    with closing(LedgerThread(Ledger(made.folder.ledger), problems)) as writer:
        site = Site(sources_of(made, writer, problems), clock or SystemClock())
        try:
            yield site
        finally:
            site.stop()
            site.close()


def worker_id(number: int) -> WorkerId:
    """Of a worker by its number from 0 on."""
    return WorkerId(f"{number:016x}")


def sources_of(made: MadeUp, writer: LedgerThread, problems: Problems) -> Sources:
    """Where its pages have their facts from."""
    clock = SystemClock()
    admission = Admission.of(ServerSection(), clock, random.Random(0), lambda: 0.0)  # noqa: S311 -- no secret
    signatures = Signatures(folder=made.folder, release_key="", problems=problems)
    reader = LedgerThread(Ledger(made.folder.ledger, read_only=True), problems)
    live = [_at_work(number, made.extent) for number in range(made.extent.live)]
    return Sources(
        spec=made.spec,
        address=f"https://run.example:8400/#{'5e' * 32}",
        num_parameters=860_000_000,
        ledger=reader,
        checkpoints=Checkpoints(folder=made.folder.checkpoints, spec=made.spec, ledger=writer, signatures=signatures),
        judgements=Judgements(folder=made.folder.judgements, run_id=made.spec.run_id, ledger=writer),
        standing=Standing(made.spec.config.screening, {}),
        admission=admission,
        live=lambda: _live(made.extent, live, problems),
        at_work=lambda: live,
        waiting=lambda: made.extent.live // 3,
        disk=lambda: _DISK,
        next_round=lambda: made.extent.rounds + 1,
    )


def _live(extent: Extent, live: Sequence[AtWork], problems: Problems) -> LiveStatus:
    return LiveStatus(
        round_number=extent.rounds + 1,
        target_images=extent.round_images,
        accepted_images=extent.round_images // 2,
        leased_images=extent.round_images // 4,
        seconds_to_close=500.0 - time.monotonic() % 500,
        complete=False,
        workers=tuple(WorkerStatus(one.worker, one.worker, one.images_per_second) for one in live),
        refusals={"round_closed": 12, "busy": 3},
        problems=problems.present(),
        judging=JudgingStatus(None, None, 0, ""),
        recovery=cast("Any", SimpleNamespace(at_ms=now_ms() - 86_400_000)),
        actions=0,
    )


def _at_work(number: int, extent: Extent) -> AtWork:
    busy = number % 3 != 0
    worker = worker_id(number)
    ranges = (ShardRange(3, number % extent.shards, 0, 4),)
    lease = Lease(LeaseId(number), worker, extent.rounds, ranges, 7, 512, 1e-3, LeaseState.ACTIVE, now_ms())
    return AtWork(worker, 2.0 + number % 40, float(number % 50), lease if busy else None, waits=not busy)


def _spec(extent: Extent, overrides: Sequence[str]) -> RunSpec:
    config = load_toml(None, RunConfig, [*_SETTINGS, *overrides])
    shards = tuple(
        ShardEntry(
            name=f"train-{number}.tar",
            sha256=f"{number:064x}",
            size_bytes=5_000_000,
            num_samples=1000,
            width=64,
            height=64,
        )
        for number in range(extent.shards + 1)
    )
    data = DataManifest(name="made-up", source="nowhere", license="CC0-1.0", train=shards[1:], held_out=shards[:1])
    return RunSpec(run_id="year-00000000", config=config, data=data, tokenizer="{}", receipt_key="a" * 64)


_Rows = list[dict[str, Any]]


def _rows(extent: Extent, chance: random.Random) -> Iterator[tuple[sa.Table, _Rows]]:
    """What to insert, in the order in which one thing refers to another."""
    now = now_ms()
    begun = now - extent.rounds * extent.round_seconds * 1000
    rounds = range(1, extent.rounds + 2)
    yield tables.workers, [_worker(number, extent, begun) for number in range(extent.workers)]
    yield tables.rounds, [_round(number, extent, begun) for number in rounds]
    given = [_given(number, extent, begun, chance) for number in range(extent.contributions)]
    yield tables.leases, [_lease(one) for one in given]
    yield tables.contributions, given
    yield tables.verdicts, [_verdict(one, chance) for one in given]
    yield tables.audits, [_audit(one, chance) for one in given if chance.random() < 0.01]
    yield tables.versions, [_version(number, extent, begun) for number in range(extent.rounds + 1)]
    yield (
        tables.evaluations,
        [_evaluation(number, extent, weights, chance) for number in range(extent.rounds + 1) for weights in Weights],
    )
    shown = _exported(extent)
    yield tables.checkpoints, [_checkpoint(number, extent, begun) for number in shown]
    yield tables.judgements, [_judgement(number, extent, begun) for number in shown]
    yield tables.refusals, [_refused(number) for number in range(0, extent.workers, 3)]
    yield tables.actions, [_action(number, extent, begun) for number in range(1, extent.actions + 1)]


def _exported(extent: Extent) -> list[int]:
    """Versions that are checkpoints."""
    every = max(1, extent.rounds // max(1, extent.checkpoints))
    return list(range(every, extent.rounds + 1, every))[: extent.checkpoints]


def _name(version: int, extent: Extent) -> str:
    return f"year-{extent.round_images * version:010d}"


def _write_manifest(made: MadeUp) -> None:
    """Of the newest checkpoint, whose files nobody has made."""
    files = {
        name: FileEntry(sha256=SHA, size_bytes=size)
        for name, size in (("transformer/diffusion_pytorch_model.safetensors", 3_400_000_000), ("grid.png", 90_000))
    }
    manifest = CheckpointManifest(
        name=made.newest_checkpoint,
        run_id=made.spec.run_id,
        run="year",
        title="A year of pictures",
        version=_exported(made.extent)[-1],
        images=made.extent.round_images,
        weights_digest=SHA,
        default_weights="ema",
        held_out_loss={"raw": 0.5, "ema": 0.4},
        held_out_bins=(0.4,),
        parameters=860_000_000,
        license="Apache-2.0",
        created="2026-01-01T00:00:00+00:00",
        data=DataOrigin(name="made-up", digest=SHA, source="nowhere", license="CC0-1.0", images=1000),
        contributors=(Contributor(worker_id=worker_id(0), display_name="Ada", images=100),),
        config={},
        software={},
        call={"num_inference_steps": 24, "guidance_scale": 2.0},
        files=files,
    )
    folder = made.folder.checkpoints / made.newest_checkpoint
    folder.mkdir()
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json())


def _worker(number: int, extent: Extent, begun: int) -> dict[str, Any]:
    own = "" if number % 10 == 8 else f"volunteer {number // 2}"
    team = f"team {number % 7}" if number % 3 else ""
    return {
        "worker_id": worker_id(number),
        "public_key": number.to_bytes(32, "big"),
        "token_sha256": f"{number:064x}",
        "signed_at_ms": 1,
        "display_name": extent.names[number] if number < len(extent.names) else own,
        "device": "cuda",
        "device_name": "NVIDIA GeForce RTX 3060",
        "num_devices": 1 + number % 2,
        "memory_bytes": 12 * 2**30,
        "software_version": "0.1.0",
        "joined_at_ms": begun + number,
        "invite": "",
        "team": extent.names[number] if number < len(extent.names) else team,
    }


def _round(number: int, extent: Extent, begun: int) -> dict[str, Any]:
    state = RoundState.CLOSED if number <= extent.rounds else RoundState.OPEN
    opened = begun + number * extent.round_seconds * 1000
    return {
        "number": number,
        "target_images": extent.round_images,
        "state": state,
        "opened_at_ms": opened,
        "close_reason": "target",
    }


def _given(number: int, extent: Extent, begun: int, chance: random.Random) -> dict[str, Any]:
    """A contribution; the last ones are of the round that is open, and few workers give much."""
    round_number = 1 + number * (extent.rounds + 1) // extent.contributions
    return {
        "contribution_id": number + 1,
        "lease_id": number + 1,
        "worker_id": worker_id(int(extent.workers * chance.random() ** 3)),
        "round_number": round_number,
        "first_range": ShardRange(0, number % extent.shards, 0, 64),
        "sha256": f"{number:064x}",
        "size_bytes": 15_000_000,
        "images": extent.round_images // 64 * chance.randint(1, 10),
        "weight": 64.0,
        "mean_loss": 0.5,
        "train_ms": 600_000,
        "accepted_at_ms": begun + round_number * extent.round_seconds * 1000,
        "signature": "ab" * 64,
    }


def _lease(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "lease_id": given["lease_id"],
        "worker_id": given["worker_id"],
        "base_version": given["round_number"] - 1,
        "ranges": (given["first_range"],),
        "seed": 7,
        "quota_images": given["images"],
        "learning_rate": 1e-3,
        "state": LeaseState.SUBMITTED,
        "granted_at_ms": given["accepted_at_ms"] - 600_000,
    }


def _verdict(given: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    faulty = chance.random() < 0.01
    return {
        "lease_id": given["lease_id"],
        "worker_id": given["worker_id"],
        "round_number": given["round_number"],
        "weight": 0.0 if faulty else given["weight"],
        "scale": 1.0,
        "norm": 1.0,
        "cosine": 0.5,
        "fault": chance.choice([Fault.OUTLIER, Fault.COPIED, Fault.OPPOSED]) if faulty else Fault.NONE,
    }


def _audit(given: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    return {
        "lease_id": given["lease_id"],
        "worker_id": given["worker_id"],
        "agrees": chance.random() < 0.95,
        "cosine": 0.99,
        "length_ratio": 1.0,
        "at_ms": given["accepted_at_ms"],
    }


def _version(number: int, extent: Extent, begun: int) -> dict[str, Any]:
    return {
        "version": number,
        "images": extent.round_images * number,
        "weights_digest": f"{number:064x}",
        "update_sha256": f"{number:064x}" if number else "",
        "update_bytes": 15_000_000,
        "snapshot_sha256": "",
        "snapshot_bytes": 0,
        "published_at_ms": begun + (number + 1) * extent.round_seconds * 1000,
        "back_to": None,
        "action_id": None,
    }


def _evaluation(number: int, extent: Extent, weights: Weights, chance: random.Random) -> dict[str, Any]:
    mean = 0.2 + 1.5 / (1 + number / 50) ** 0.35 + (0.02 * chance.random() if weights is Weights.RAW else 0.0)
    bins = tuple(mean * factor for factor in (2.2, 1.2, 0.8, 0.5, 0.3))
    return {"version": number, "weights": weights, "images": extent.round_images * number, "mean": mean, "bins": bins}


def _checkpoint(number: int, extent: Extent, begun: int) -> dict[str, Any]:
    return {
        "name": _name(number, extent),
        "version": number,
        "images": extent.round_images * number,
        "default_weights": Weights.EMA,
        "held_out_loss": 0.2 + 1.5 / (1 + number / 50) ** 0.35,
        "size_bytes": 3_400_000_000,
        "manifest_sha256": f"{number:064x}",
        "created_at_ms": begun + (number + 1) * extent.round_seconds * 1000,
    }


def _judgement(number: int, extent: Extent, begun: int) -> dict[str, Any]:
    return {
        "checkpoint": _name(number, extent),
        "images": extent.round_images * number,
        "encoder_sha256": SHA,
        "frechet": 30.0,
        "kernel": 0.02,
        "retrieval": 0.6,
        "unseen": 0.4,
        "result": json.dumps({"seconds": 1.0}),
        "sheets": {"grid.png": SHA},
        "judged_at_ms": begun + (number + 1) * extent.round_seconds * 1000,
    }


def _refused(number: int) -> dict[str, Any]:
    reason = ("busy", "round_closed", "lease_expired")[number % 9 // 3]
    return {"worker_id": worker_id(number), "day": this_day() - number % 40, "reason": reason, "calls": 1 + number % 9}


def _action(number: int, extent: Extent, begun: int) -> dict[str, Any]:
    kind = (ActionKind.BAN, ActionKind.UNBAN, ActionKind.DISTRUST, ActionKind.INVITE)[number % 4]
    subject = SHA if kind is ActionKind.INVITE else worker_id(number % extent.workers)
    return {
        "action_id": number,
        "kind": kind,
        "subject": subject,
        "note": f"why it was done, the {number}th time",
        "at_ms": begun + number * 1000,
        "uses": 1,
        "until_ms": 0,
    }
