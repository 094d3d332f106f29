"""What lies in a run's folder, by its ledger and its files alone: as true when the coordinator is down."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coordinator.folder_size import below, measure, own
from coordinator.ledger import Ledger
from coordinator.records import Anchor, Checkpoint, HeldDelta, Totals, Version, now_ms
from coordinator.retention import Holdings, KeptCheckpoint
from coordinator.run_folder import RunFolder
from coordinator.storage_forecast import GIB, Storage, forecast, growth
from diffusion_at_home.config.run import RunConfig

_STATE: Final = re.compile(r"state-(\d+)\.safetensors")


@dataclass(frozen=True, slots=True)
class Records:
    """What the ledger says of them, but for the versions."""

    totals: Totals
    anchor: Anchor | None
    deltas: Sequence[HeldDelta]
    offered: Sequence[Checkpoint]
    exported: Sequence[Checkpoint]


def read_records(ledger: Ledger) -> Records:
    """All of it."""
    return Records(ledger.totals(), ledger.anchor(), ledger.held_deltas(), ledger.checkpoints(), ledger.exported())


def survey(folder: RunFolder, config: RunConfig, history: Sequence[Version], records: Records, quota: int) -> Storage:
    """Walk through the folder, and say how long the disk will do; `quota` is in bytes, 0 is no limit."""
    return forecast(
        holdings(folder, history, records),
        quota_bytes=quota,
        free_bytes=shutil.disk_usage(folder.root).free,
        grows=growth(history, records.totals, sum(one.size_bytes for one in records.exported), now_ms()),
        images_left=config.run.total_images - history[-1].images,
    )


def quota_bytes(folder: RunFolder, config: RunConfig) -> int:
    """Of the coordinator that serves the run now, else of the run's config."""
    try:
        given = float(folder.quota.read_text()) if folder.is_running() else config.storage.quota_gib
    except (FileNotFoundError, ValueError):
        given = config.storage.quota_gib
    return int(given * GIB)


def holdings(folder: RunFolder, history: Sequence[Version], records: Records) -> Holdings:
    """As `retention` wants them."""
    found = measure(folder.root)
    contributions: Counter[int] = Counter()
    for delta in records.deltas:
        contributions[delta.round_number] += found.sizes.get(folder.blobs / delta.sha256, 0)
    saved = {int(match[1]): path for path in found.sizes if (match := _state_in(folder, path))}
    newest = max(saved, default=0)
    anchor = records.anchor.version if records.anchor else 0
    snapshots = [v.version for v in history if folder.blobs / v.snapshot_sha256 in found.sizes]
    return Holdings(
        total_bytes=found.total_bytes,
        newest=history[-1].version,
        saved=newest,
        state_bytes=found.sizes[saved[newest]] if saved else 0,
        anchor=anchor,
        anchor_bytes=own(found, folder.state / f"anchor-{anchor}.safetensors"),
        oldest_snapshot=min(snapshots, default=0),
        damaged=below(found, folder.damaged),
        updates={
            version.version: size
            for version in history[1:]
            if (size := found.sizes.get(folder.blobs / version.update_sha256, 0))
        },
        states={version: own(found, path) for version, path in saved.items() if version != newest},
        contributions=contributions,
        checkpoints=[KeptCheckpoint(c.name, c.images, c.size_bytes, c.held_out_loss) for c in records.offered],
    )


def _state_in(folder: RunFolder, path: Path) -> re.Match[str] | None:
    return _STATE.fullmatch(path.name) if path.parent == folder.state else None
