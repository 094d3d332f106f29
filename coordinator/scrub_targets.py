"""What is read again and again, in which order, and what each file should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from coordinator.ledger import Ledger
from coordinator.parts import autoencoder_parts
from coordinator.records import HeldDelta, Version
from coordinator.run_folder import RunFolder
from coordinator.states import States
from diffusion_at_home.runspec import RunSpec


class What(StrEnum):
    """What a file is to the run."""

    SPEC = "specification"
    SNAPSHOT = "snapshot"
    UPDATE = "update"
    SHARD = "shard"
    TEXT_ENCODER = "text encoder"
    STATE = "saved state"
    ANCHOR = "anchor"
    CONTRIBUTION = "contribution"
    CHECKPOINT = "checkpoint"
    HELD_OUT = "held-out shard"
    AUTOENCODER = "autoencoder"
    JUDGING = "what checkpoints are judged by"
    SHEET = "sheet of a judgement"


@dataclass(frozen=True, slots=True)
class Saved:
    """What a state's file must say of itself, beside the digests of its vectors."""

    version: int
    images: int
    digest: str = ""
    """Its `state_digest`, where the ledger knows it."""


@dataclass(frozen=True, slots=True)
class Target:
    """One file, and what it should be."""

    what: What
    path: Path
    expected: str | Saved
    """A sha256 of the whole file (hex); of a state, its facts."""
    name: str
    """Of the problem if it is not: the sha256 of a blob, or the name of a checkpoint or of another file."""
    about: str
    """For people."""


def joiners_first(
    *, spec: RunSpec, history: Sequence[Version], snapshots: Sequence[int], folder: RunFolder
) -> list[Target]:
    """What a worker that joins now fetches, in its order: specification, text encoder, snapshots and updates since, shards."""
    since = min(snapshots, default=len(history))
    wanted = [(What.SPEC, spec.sha256, "the run's specification")]
    files = spec.text_encoder.files if spec.text_encoder else ()
    wanted += [(What.TEXT_ENCODER, file.sha256, f"the text encoder's {file.name}") for file in files]
    wanted += [(What.SNAPSHOT, history[v].snapshot_sha256, f"the snapshot of version {v}") for v in reversed(snapshots)]
    wanted += [
        (What.UPDATE, v.update_sha256, f"the update to version {v.version}")
        for v in history[since + 1 :]
        if v.update_sha256
    ]
    wanted += [(What.SHARD, entry.sha256, f"shard {entry.name}") for entry in spec.data.train]
    return [_blob(what, sha256, about, folder) for what, sha256, about in wanted]


def whole_states(*, states: States, history: Sequence[Version]) -> list[Target]:
    """What only a restart or a replay needs: the saved states, the newest first, then the anchor."""
    found = [
        _state(What.STATE, states.file(version), f"the saved state of version {version}", history[version])
        for version in reversed(states.saved())
    ]
    if (anchor := states.anchor) is not None:
        path, about = states.anchor_file(anchor.version), f"the anchor, the state of version {anchor.version},"
        found.append(_state(What.ANCHOR, path, about, history[anchor.version], anchor.digest))
    return found


def the_rest(
    *,
    spec: RunSpec,
    history: Sequence[Version],
    snapshots: Sequence[int],
    deltas: Sequence[HeldDelta],
    folder: RunFolder,
) -> list[Target]:
    """What only a restart, a replay, an evaluation, an export or a worker that is far behind needs."""
    since = min(snapshots, default=0)
    found = [
        _blob(What.CONTRIBUTION, delta.sha256, f"a contribution to round {delta.round_number}", folder)
        for delta in reversed(deltas)
    ]
    found += [
        Target(What.HELD_OUT, folder.held_out / entry.name, entry.sha256, entry.name, f"held-out shard {entry.name}")
        for entry in spec.data.held_out
    ]
    found += [
        Target(What.AUTOENCODER, folder.root / part.path, part.sha256, part.path, "the run's copy of its autoencoder")
        for part in autoencoder_parts(folder, spec)
    ]
    found += [
        _blob(What.UPDATE, version.update_sha256, f"the update to version {version.version}", folder)
        for version in reversed(history[1 : since + 1])
        if version.update_sha256
    ]
    return found


def of_judgements(ledger: Ledger, folder: RunFolder) -> list[Target]:
    """What checkpoints are judged by, and what they drew."""
    found = [
        Target(What.JUDGING, folder.root / path, sha256, path, f"{path}, by which checkpoints are judged,")
        for path, sha256 in ledger.judging_files().items()
    ]
    for judgement in reversed(ledger.judgements()):
        place, about = folder.judgements / judgement.checkpoint, f"a sheet of {judgement.checkpoint}"
        found += [
            Target(What.SHEET, place / name, sha256, f"{judgement.checkpoint}/{name}", about)
            for name, sha256 in judgement.sheets.items()
        ]
    return found


def _blob(what: What, sha256: str, about: str, folder: RunFolder) -> Target:
    return Target(what, folder.blobs / sha256, sha256, sha256, about)


def _state(what: What, path: Path, about: str, version: Version, digest: str = "") -> Target:
    return Target(what, path, Saved(version.version, version.images, digest), path.name, about)
