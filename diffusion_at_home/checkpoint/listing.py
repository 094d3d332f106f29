"""What a run's address answers at /checkpoints.json."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from pydantic import ConfigDict, Field

from diffusion_at_home.checkpoint.manifest import CheckpointName, RunId, Sha256, Weights
from diffusion_at_home.checkpoint.rotation import Chain
from diffusion_at_home.config.toml import Section
from diffusion_at_home.config.values import Name
from diffusion_at_home.signing_key import PublicKey

LISTING_PATH: Final = "/checkpoints.json"
MAX_LISTING_BYTES: Final = 16 * 2**20


class _Listed(Section):
    """Unknown keys are ignored: a newer coordinator may add some, and must be understood all the same."""

    model_config: ClassVar[ConfigDict] = ConfigDict(**{**Section.model_config, "extra": "ignore"})


class ListedJudgement(_Listed):
    """What the coordinator judged a checkpoint's pictures to be; a figure that is not finite is None."""

    frechet: float | None
    """Distance to training pictures in the encoder's features; lower is better."""
    kernel: float | None
    """The same by kernels."""
    retrieval: float | None
    """Share of drawn pictures that lead back to the picture of their caption."""
    unseen: float | None
    """The same of captions that are new, word for word known; None where the data set has too few."""
    encoder_sha256: Sha256
    """Of the encoder: figures of two are not comparable."""


class ListedCheckpoint(_Listed):
    """One checkpoint in short."""

    name: CheckpointName
    """Unique in its run."""
    version: int
    """Outer steps, which is the number of rounds."""
    images: int
    """Images trained."""
    held_out_loss: float | None
    """Of its default weights; None when it was not finite."""
    default_weights: Weights
    """What loads without a variant."""
    size_bytes: int
    """Of all files but the manifest."""
    created: str
    """ISO 8601, UTC."""
    manifest_sha256: Sha256
    """From it everything else is checked."""
    signed: bool = False
    """Whether its signature is there."""
    judged: ListedJudgement | None = None
    """None until it is."""


class CheckpointListing(_Listed):
    """All checkpoints, oldest first, and the two that have a name."""

    run_id: RunId
    """`RunSpec.run_id`."""
    run: Name
    """run.name of the config."""
    checkpoints: Annotated[tuple[ListedCheckpoint, ...], Field(max_length=100_000)]
    """Oldest first."""
    latest: CheckpointName | None
    """Name of the newest; None before the first."""
    best: CheckpointName | None
    """Lowest held-out loss."""
    release_key: PublicKey | None = None
    """release.public_key of the config; None if the run names none."""
    rotations: Chain = ()
    """By which that key has passed to the one that signs now, the oldest first."""


def file_path(name: str, path: str) -> str:
    """Where a checkpoint's file is served, below the run's address."""
    return f"/checkpoints/{name}/{path}"
