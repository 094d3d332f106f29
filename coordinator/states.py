"""The whole states of a run on disk: the newest ones, and the anchor.

A state is everything the next version is made from, some times the size of the model. The last two that were saved stay,
so that a damaged one costs arithmetic and not the run. The anchor, if there is one, is a state that is kept although later
ones were saved: the contributions before it may be gone. It is a file of its own or the older of the two, never the newest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coordinator.records import Anchor, now_ms
from diffusion_at_home.errors import storage_errors
from diffusion_at_home.outer.state import RunState, state_digest
from diffusion_at_home.sync import sync_folder

KEPT_STATES: Final = 2
"""Newest saved states that stay."""

_STATE: Final = re.compile(r"state-(\d+)\.safetensors")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a version's state can be had."""

    name: str
    """For people: the file's name, or "the seed"."""
    version: int
    path: Path | None
    """None for the seed."""
    load: Callable[[], RunState]
    """Raises `IntegrityError`."""


class States:
    """The folders `state` and `exports` of a run, whose links are older states that something still waits for."""

    def __init__(
        self, *, folder: Path, exports: Path, damaged: Path, anchor: Anchor | None, seed: Callable[[], RunState]
    ) -> None:
        """`seed` makes version 0 again."""
        self.anchor = anchor
        self._folder = folder
        self._exports = exports
        self._damaged = damaged
        self._seed = seed

    @property
    def anchor_version(self) -> int:
        """Contributions up to and with this one's are not needed; 0 is the seed."""
        return self.anchor.version if self.anchor else 0

    def saved(self) -> list[int]:
        """The versions whose state was saved and is there, oldest first."""
        found = (_STATE.fullmatch(path.name) for path in self._folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def file(self, version: int) -> Path:
        """Where the state of `version` is, or would be."""
        return self._folder / f"state-{version}.safetensors"

    def anchor_file(self, version: int) -> Path:
        """Where the anchor at `version` is, or would be."""
        return anchor_file(self._folder, version)

    def save(self, state: RunState) -> None:
        """Save `state`, which is newer than all others; what is too old goes. Raises `StorageError`."""
        state.save(self.file(state.version))
        self.forget_all_but(self.saved()[-KEPT_STATES:])

    def forget_all_but(self, versions: list[int]) -> None:
        """Delete the other saved states; the anchor stays."""
        for version in self.saved():
            if version not in versions:
                self.file(version).unlink(missing_ok=True)

    def sources(self) -> Iterator[Source]:
        """Whatever a newest version can be stepped from, the fewest steps first: a damaged one is no reason to give up."""
        files = {self.file(version): version for version in self.saved()}
        files |= {path: int(path.name.partition("-")[0]) for path in self._exports.glob("*.safetensors")}
        if self.anchor is not None:
            files[self.anchor_file(self.anchor.version)] = self.anchor.version
        for path in sorted(files, key=lambda path: (-files[path], path.parent != self._folder, path)):
            if files[path] >= self.anchor_version:
                yield Source(path.name, files[path], path, lambda path=path: RunState.load(path))  # type: ignore[misc]
        if self.anchor is None:
            yield Source("the seed", 0, None, self._seed)

    def set_aside(self, path: Path) -> None:
        """Move a damaged state away, so that nothing is made from it."""
        with storage_errors(self._damaged):
            self._damaged.mkdir(exist_ok=True)
            path.replace(self._damaged / path.name)

    def make_anchor(self, version: int) -> Anchor:
        """Keep the saved state of `version` as an anchor, durably; it counts once the ledger has it.

        Raises `StorageError`, `IntegrityError`.
        """
        source, kept = self.file(version), self.anchor_file(version)
        with storage_errors(kept):
            if kept.exists():  # of a move that failed
                kept.unlink()
            os.link(source, kept)
            sync_folder(self._folder)
        return Anchor(version, state_digest(kept), now_ms())

    def anchor_stored(self, anchor: Anchor) -> None:
        """The ledger has `anchor`: the one before goes."""
        before, self.anchor = self.anchor, anchor
        if before is not None and before.version != anchor.version:
            self.anchor_file(before.version).unlink(missing_ok=True)
        self.file(anchor.version).unlink(missing_ok=True)

    def sweep(self) -> list[str]:
        """Delete what a process that died has left in the folder; returns its names."""
        kept = {self.file(version) for version in self.saved()}
        if self.anchor is not None:
            kept.add(self.anchor_file(self.anchor.version))
        left = sorted(path for path in self._folder.iterdir() if path not in kept)
        for path in left:
            path.unlink()
        return [path.name for path in left]


def anchor_file(folder: Path, version: int) -> Path:
    """Where the anchor at `version` lies."""
    return folder / anchor_name(version)


def anchor_name(version: int) -> str:
    """Of the file of the anchor at `version`."""
    return f"anchor-{version}.safetensors"
