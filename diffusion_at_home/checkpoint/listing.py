"""What a run's address answers at /checkpoints.json."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from diffusion_at_home.checkpoint.manifest import CheckpointName, Sha256
from diffusion_at_home.config.toml import Section

LISTING_PATH: Final = "/checkpoints.json"
MAX_LISTING_BYTES: Final = 16 * 2**20


class ListedCheckpoint(Section):
    """One checkpoint in short."""

    name: CheckpointName
    version: int
    images: int
    held_out_loss: float | None
    """Of its default weights; None when it was not finite."""
    default_weights: str
    size_bytes: int
    created: str
    """ISO 8601, UTC."""
    manifest_sha256: Sha256


class CheckpointListing(Section):
    """All checkpoints, oldest first, and the two that have a name."""

    run_id: str
    run: str
    checkpoints: Annotated[tuple[ListedCheckpoint, ...], Field(max_length=100_000)]
    latest: CheckpointName | None
    best: CheckpointName | None
    """Lowest held-out loss."""


def file_path(name: str, path: str) -> str:
    """Where a checkpoint's file is served, below the run's address."""
    return f"/checkpoints/{name}/{path}"
