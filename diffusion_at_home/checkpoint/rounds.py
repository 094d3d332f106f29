"""The rounds that a checkpoint comes from, by digest: `rounds.json` in the folder, a file of the manifest as all others.

Whoever has a run's update, snapshot or weights can look up whether it is one of the line that has led to this checkpoint; and of
two checkpoints of one run the shorter list begins the longer one, or somebody has changed the past. Some 140 bytes a round.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from diffusion_at_home.checkpoint.manifest import ROUNDS_NAME, CheckpointManifest, CohortsManifest, RunId, Sha256
from diffusion_at_home.config.toml import Section, first_mistake
from diffusion_at_home.errors import ConfigError, IntegrityError

MAX_ROUNDS: Final = 400_000
MAX_ROUNDS_BYTES: Final = 64 * 2**20
"""More than `MAX_ROUNDS` are."""

Digests = tuple[Sha256, Sha256 | Literal[""]]
"""Of a version: its weights (`Layout.weights_digest`), and the file of the update that led to it.

There is none to version 0, nor to a rollback, whose weights are those of the version that the run went back to.
"""


class Rounds(Section):
    """`rounds.json`."""

    format: Literal[1] = 1
    """Of this file."""
    run_id: RunId
    """`RunSpec.run_id`."""
    versions: Annotated[tuple[Digests, ...], Field(min_length=1, max_length=MAX_ROUNDS)]
    """In their order, from version 0 on: round n ends in version n."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a digest is to a run."""

    version: int
    what: Literal["weights", "update"]
    digest: str


def find(rounds: Rounds, digest: str) -> Found | None:
    """The first version whose weights or update have `digest` (hex)."""
    for version, (weights, update) in enumerate(rounds.versions):
        if digest in (update, weights):
            return Found(version, "update" if digest == update else "weights", digest)
    return None


def look_up(folder: Path, manifest: CheckpointManifest, what: str) -> Found:
    """What `what` is, a file or a digest in hex, to the checkpoint in `folder`. Raises `IntegrityError` if it is nothing."""
    if isinstance(manifest, CohortsManifest):
        raise IntegrityError(f"{folder} is made of several runs' checkpoints, which experts/ names: ask one of those")
    path, digest = Path(what), what.lower()
    if path.is_file():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    elif not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ConfigError(f"{what!r} is neither a file nor the 64 hexadecimal digits of a digest")
    found = find(check_rounds(folder, manifest), digest)
    if found is None:
        raise IntegrityError(
            f"{what} ({digest}) is no update and no version of the {manifest.version} rounds of {manifest.run_id} from which "
            f"{manifest.name} comes"
        )
    return found


def check_rounds(folder: Path, manifest: CheckpointManifest) -> Rounds:
    """The rounds in the checkpoint's `folder`, which agree with its `manifest`. Raises `IntegrityError`."""
    path = folder / ROUNDS_NAME
    entry = manifest.files.get(ROUNDS_NAME)
    if entry is None:
        raise IntegrityError(f"{ROUNDS_NAME} is not in the manifest of {folder}: do not use this checkpoint")
    if entry.size_bytes > MAX_ROUNDS_BYTES:
        raise IntegrityError(f"{path} is larger than any list of rounds: do not use this checkpoint")
    try:
        rounds = Rounds.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise IntegrityError(
            f"{path} is not a list of rounds ({first_mistake(error)}): do not use this checkpoint"
        ) from None
    told = (rounds.run_id, len(rounds.versions) - 1, rounds.versions[-1][0])
    if told != (manifest.run_id, manifest.version, manifest.weights_digest):
        raise IntegrityError(
            f"{path} ends in version {told[1]} of {told[0]} with other weights than version {manifest.version} of "
            f"{manifest.run_id} in the manifest: do not use this checkpoint"
        )
    return rounds


def rounds_bytes(run_id: str, versions: Sequence[Digests]) -> bytes:
    """The file: a line a version."""
    lines = ",\n".join(f'  ["{weights}", "{update}"]' for weights, update in versions)
    return f'{{\n "format": 1,\n "run_id": "{run_id}",\n "versions": [\n{lines}\n ]\n}}\n'.encode()
