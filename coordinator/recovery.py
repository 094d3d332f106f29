"""What a start finds on the disk, and what it does about it: one report, in the log and on the status.

A coordinator may die at any instant. What it leaves then is one of a few things: files that nothing names, which go; a
state behind the newest version, which is stepped on; a round, leases and uploads, which go on; exports and judgements, which
are done again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coordinator.blobs import BlobStore
from coordinator.judging.work import sweep_judging
from coordinator.ledger import Ledger
from coordinator.problems import Problems, damaged
from coordinator.records import RoundState, now_ms
from coordinator.run_folder import RunFolder, delete
from coordinator.states import States
from coordinator.uploads import Uploads
from coordinator.versions import Loaded
from diffusion_at_home.runspec import RunSpec
from diffusion_at_home.wire.parallel import in_order


@dataclass(frozen=True, slots=True)
class Swept:
    """What of the files went, and what stays to be used."""

    uploads_kept: int
    """Half-received contributions of leases that may still count."""
    uploads_deleted: int
    blobs_deleted: int
    """That nothing names."""
    leftovers_deleted: tuple[str, ...]
    """Half-written files, below the run's folder."""
    checkpoints_deleted: tuple[str, ...]
    """Folders that the ledger does not offer."""
    judgements_deleted: tuple[str, ...]
    """What of judgements the ledger does not name, below the run's folder."""
    exports_again: int
    """Evaluations and checkpoints that were under way or waiting."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """The report."""

    at_ms: int
    """Milliseconds since 1970."""
    version: int
    """The newest published one."""
    round_number: int | None
    """The latest round; None before the first."""
    round_state: str | None
    """`open` and `closing` go on, `closed` has its version."""
    active_leases: int
    contributions: int
    """Of the latest round."""
    state_from: str
    """The file that the newest version's state was had from, or "the seed"."""
    versions_stepped_again: int
    """From there to the newest version."""
    damaged: tuple[str, ...]
    """What was found not to be what it was, a sentence each."""
    swept: Swept


def sweep(
    folder: RunFolder, *, ledger: Ledger, blobs: BlobStore, states: States, spec: RunSpec, uploads: Uploads
) -> Swept:
    """Delete what a process that died has left, before anything is served.

    The ledger decides: what it does not name is not part of the run. Raises `StorageError`, `IntegrityError`.
    """
    kept_uploads, deleted_uploads = uploads.forget_all_but({lease.lease_id for lease in ledger.active_leases()})
    orphans = blobs.keep_only(ledger.blob_names() | set(spec.blobs))
    leftovers = [f"{folder.state.name}/{name}" for name in states.sweep()]
    leftovers += [f"{folder.staging.name}/{name}" for name in _empty(folder.staging, keep="upload-*.part")]
    leftovers += [f"{folder.exports.name}/{name}" for name in _empty(folder.exports, keep="*.safetensors")]
    offered = {checkpoint.name for checkpoint in ledger.checkpoints()}
    checkpoints = [path for path in _listed(folder.checkpoints) if path.name not in offered]
    for path in checkpoints:
        delete(path)
    return Swept(
        uploads_kept=kept_uploads,
        uploads_deleted=deleted_uploads,
        blobs_deleted=orphans,
        leftovers_deleted=tuple(leftovers),
        checkpoints_deleted=tuple(path.name for path in checkpoints),
        judgements_deleted=sweep_judging(folder, ledger),
        exports_again=len(list(folder.exports.glob("*.safetensors"))),
    )


def report(ledger: Ledger, loaded: Loaded, swept: Swept) -> Recovery:
    """What the next rounds start from."""
    latest = ledger.latest_round()
    return Recovery(
        at_ms=now_ms(),
        version=ledger.newest_version().version,
        round_number=latest.number if latest else None,
        round_state=latest.state.value if latest else None,
        active_leases=len(ledger.active_leases()),
        contributions=len(ledger.contributions(latest.number)) if latest else 0,
        state_from=loaded.source,
        versions_stepped_again=loaded.stepped_again,
        damaged=loaded.damaged,
        swept=swept,
    )


def look_for_losses(folder: RunFolder, *, ledger: Ledger, blobs: BlobStore, spec: RunSpec, problems: Problems) -> None:
    """Set aside what the round under way cannot use, and name what is not there."""
    _set_damaged_aside(folder, ledger=ledger, blobs=blobs)
    name_what_is_missing(folder, ledger=ledger, blobs=blobs, spec=spec, problems=problems)


def _set_damaged_aside(folder: RunFolder, *, ledger: Ledger, blobs: BlobStore) -> None:
    """Read the contributions of the round under way once: what arrived in this process was hashed then, these were not."""
    latest = ledger.latest_round()
    if latest is None or latest.state is RoundState.CLOSED:
        return
    names = sorted({contribution.sha256 for contribution in ledger.contributions(latest.number)})
    for name, sound in zip(names, in_order(lambda index: blobs.is_sound(names[index]), len(names)), strict=True):
        if not sound:
            blobs.set_aside(name, folder.damaged)


def name_what_is_missing(
    folder: RunFolder, *, ledger: Ledger, blobs: BlobStore, spec: RunSpec, problems: Problems
) -> None:
    """Set a problem for each file that the run needs and that is not there, or was set aside and not restored."""
    needed = dict(spec.blobs)
    needed |= {delta.sha256: f"a contribution to round {delta.round_number}" for delta in ledger.held_deltas()}
    for sha256, what in needed.items():
        if blobs.path(sha256) is None:
            problems.set(damaged(sha256), missing_sentence(blobs.folder, sha256, what))
    for path in _listed(folder.damaged):
        if path.is_dir():
            problems.set(damaged(path.name), withdrawn_sentence(path))


def missing_sentence(blobs: Path, sha256: str, what: str) -> str:
    """What is said of a blob that cannot be made again."""
    return f"{what} is damaged or missing: restore {blobs / sha256} from a backup"


def withdrawn_sentence(aside: Path) -> str:
    """What is said of a damaged checkpoint."""
    return (
        f"checkpoint {aside.name} is damaged and no longer offered: delete {aside} once you have restored a copy of it "
        "elsewhere, or need none"
    )


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _empty(folder: Path, *, keep: str) -> list[str]:
    """Delete all in `folder` but what matches `keep`; returns its names."""
    gone = [path for path in _listed(folder) if not path.match(keep)]
    for path in gone:
        delete(path)
    return [path.name for path in gone]
