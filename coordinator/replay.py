"""Recomputes a run from its ledger and blobs, and compares every version with what was published.

From the seed; or, where retention has let go of the first contributions, from the anchor that the ledger names.

Reads only: the run may be stopped or live. Every step is the coordinator's own (`write_update`), in a temporary folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coordinator.blobs import BlobStore, allow_many_files, file_sha256, read_spec
from coordinator.ledger import Ledger
from coordinator.lineage import lineage
from coordinator.records import Anchor, Counted, Version
from coordinator.run_folder import RunFolder
from coordinator.states import anchor_file
from coordinator.versions import write_update
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.errors import IntegrityError
from diffusion_at_home.model.build import build_model
from diffusion_at_home.outer.state import RunState, state_digest
from diffusion_at_home.wire.chunk import DecodeError
from diffusion_at_home.wire.layout import Layout

_UPDATE: Final = "update"


@dataclass(frozen=True, slots=True)
class Replayed:
    """A run whose every version is what its contributions make of its seed."""

    run_id: str
    versions: int
    """Published, version 0 included."""
    from_version: int
    """The one from which the others were recomputed: 0 is the seed, anything else the anchor."""
    contributions: int
    """That count in those that were recomputed."""
    images: int
    weights_digest: str
    """Of the newest version."""


def replay(folder: RunFolder) -> Replayed:
    """Recompute the run in `folder`. Raises `ConfigError`, and `IntegrityError` that names what first differs."""
    folder.check()
    allow_many_files()
    with closing(Ledger(folder.ledger, read_only=True)) as ledger, tempfile.TemporaryDirectory() as scratch:
        blobs = BlobStore(folder.blobs, Path(scratch))
        while True:
            anchor = ledger.anchor()
            try:
                return _replay(folder, ledger, blobs, anchor)
            except IntegrityError:
                if ledger.anchor() == anchor:
                    raise  # else the run is live and has let go of what was being read


def _replay(folder: RunFolder, ledger: Ledger, blobs: BlobStore, anchor: Anchor | None) -> Replayed:
    spec = read_spec(blobs, ledger.spec_sha256())
    config, history = spec.config, ledger.versions()
    model = build_model(config.model, config.objective, spec.tokenizer.encode(), config.run.seed)
    layout = Layout.of(model)
    first = anchor.version if anchor else 0
    weights = layout.flatten(model)

    def begin() -> RunState:
        return _anchored(folder, anchor) if anchor else RunState.initial(config, weights)

    state = begin()
    _compare(history[first], state, layout, update_sha256=history[first].update_sha256 if anchor else "")
    num_contributions = 0
    for published in history[first + 1 :]:
        if published.back_to is not None:
            state = begin()
            for earlier in lineage(history, published.back_to):
                if earlier > first:
                    _move(state, config, ledger, blobs, history[earlier])
        num_contributions += _move(state, config, ledger, blobs, published)
        update_sha256 = "" if published.back_to is not None else file_sha256(blobs.staging / _UPDATE)
        _compare(published, state, layout, update_sha256=update_sha256)
    return Replayed(spec.run_id, len(history), first, num_contributions, state.images, history[-1].weights_digest)


def _anchored(folder: RunFolder, anchor: Anchor) -> RunState:
    path = anchor_file(folder.state, anchor.version)
    if state_digest(path) != anchor.digest:
        raise IntegrityError(f"{path} is not the anchor that the ledger names: restore it from a backup")
    return RunState.load(path)


def _move(state: RunState, config: RunConfig, ledger: Ledger, blobs: BlobStore, target: Version) -> int:
    """Move `state` from its parent to `target`; the update is in staging. Returns how many contributions count."""
    if target.back_to is not None:
        state.version = target.version  # it is the same again
        return 0
    counted = ledger.counted(target.version)
    _step(state, config, counted, blobs, target)
    return len(counted)


def _step(state: RunState, config: RunConfig, counted: Sequence[Counted], blobs: BlobStore, target: Version) -> None:
    """Move `state` to `target`, and write the update."""
    for contribution in (one.contribution for one in counted):
        path = blobs.path(contribution.sha256)
        if path is not None and file_sha256(path) != contribution.sha256:
            raise IntegrityError(
                f"version {target.version} differs: {path}, contribution {contribution.contribution_id}, "
                "does not have the digest of its name: restore it from a backup"
            )
    try:
        write_update(blobs.staging / _UPDATE, state, config, counted, blobs)
    except DecodeError as error:
        raise IntegrityError(
            f"version {target.version} differs: a contribution cannot be decoded ({error}): use the software that made it"
        ) from None


def _compare(published: Version, state: RunState, layout: Layout, *, update_sha256: str) -> None:
    facts = {
        "images": (published.images, state.images),
        "the weights' digest": (published.weights_digest, layout.weights_digest(state.published)),
        "the update's sha256": (published.update_sha256, update_sha256),
    }
    for name, (there, here) in facts.items():
        if there != here:
            raise IntegrityError(
                f"version {published.version} differs: {name} is {there} in the ledger and {here} when recomputed: "
                "do not trust this run's weights from there on"
            )
