"""Which of a run's files everybody may have, wherever they are kept: by sha256, with where each lies on the coordinator's disk.

Contributions are not among them: only who audits wants one, and the coordinator serves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.records import Version
from coordinator.run_folder import RunFolder
from diffusion_at_home.checkpoint.manifest import load_manifest
from diffusion_at_home.errors import DahError
from diffusion_at_home.runspec import RunSpec


@dataclass(frozen=True, slots=True)
class PublicFiles:
    """At one instant."""

    wanted: dict[str, Path]
    """What should be in the bucket; what is needed to begin first."""
    kept: frozenset[str]
    """What may stay there: also what the run has of contributions, what is not announced yet, or was set aside as damaged."""


def public_files(folder: RunFolder, spec: RunSpec, history: Sequence[Version]) -> PublicFiles:
    """Look. Reads the run's folder, no file of it but manifests. Blocks."""
    blobs = {path.name for path in folder.blobs.iterdir()}
    versions = [name for version in reversed(history) for name in (version.snapshot_sha256, version.update_sha256)]
    named = dict.fromkeys([spec.sha256, *spec.blobs, *(name for name in versions if name)])
    wanted = {name: folder.blobs / name for name in named if name in blobs}
    for checkpoint in _folders(folder.checkpoints):
        try:
            files = load_manifest(checkpoint).files
        except (DahError, OSError):
            continue  # it goes just now, or is damaged, which others find
        for path, entry in files.items():
            wanted.setdefault(entry.sha256, checkpoint / path)
    damaged = [path.name for path in folder.damaged.iterdir()] if folder.damaged.is_dir() else []
    return PublicFiles(wanted, frozenset({*wanted, *blobs, *damaged}))


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
