"""A checkpoint made of cohorts' experts: whether its code is ours, and its weights those of the checkpoints that it names.

Its files have been compared with its manifest before. Needs no torch: `pipeline.py` is read, never run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic_core import from_json

from diffusion_at_home import cohorts
from diffusion_at_home.checkpoint.manifest import (
    MANIFEST_NAME,
    PIPELINE_NAME,
    CheckpointManifest,
    CohortsManifest,
    FileEntry,
    load_manifest_file,
)
from diffusion_at_home.errors import IntegrityError

EXPERTS: Final = "experts"
"""Folder of the experts' own manifests."""
PARTS: Final = ("transformer", "text_encoder")
"""What each expert has of its own."""


INDEX_NAME: Final = "model_index.json"
PIPELINE_CLASS: Final = ("pipeline", "CohortPipeline")
"""Module and class, as diffusers finds them in the index."""
_CLASSES: Final = (
    ("diffusers", "FlowMatchEulerDiscreteScheduler"),
    ("diffusers", "PRXTransformer2DModel"),
    ("transformers", "PreTrainedTokenizerFast"),
    ("transformers", "T5EncoderModel"),
)
_NAMES_CODE: Final = {"auto_map", "custom_pipelines"}
"""Keys by which transformers and diffusers are sent to code elsewhere."""


def pipeline_bytes() -> bytes:
    """The code that this version writes into such a checkpoint."""
    return (Path(cohorts.__file__).parent / PIPELINE_NAME).read_bytes()


def check_experts(folder: Path, manifest: CohortsManifest) -> None:
    """Raise `IntegrityError` if the code in `folder` is not ours, or an expert is not of the checkpoint that it is said to be."""
    _check_index(folder)
    if PIPELINE_NAME not in manifest.files or (folder / PIPELINE_NAME).read_bytes() != pipeline_bytes():
        wrote = manifest.software.get("diffusion-at-home", "another")
        raise IntegrityError(
            f"{folder / PIPELINE_NAME} is not the code that this version of diffusion-at-home writes: verify it with the one "
            f"that wrote it ({wrote}), and read it before you run it"
        )
    for number, origin in enumerate(manifest.cohorts, start=1):
        path = folder / EXPERTS / f"{number}.json"
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != origin.manifest_sha256:
            raise IntegrityError(f"{path} is not the manifest that cohort {number} names: do not use this checkpoint")
        expert = load_manifest_file(path)
        if (expert.run_id, expert.name, expert.weights_digest) != (
            origin.run_id,
            origin.name,
            origin.weights_digest,
        ):
            raise IntegrityError(f"{path} is of another checkpoint than cohort {number}: do not use this checkpoint")
        _check_weights(manifest, expert, number)


def _check_index(folder: Path) -> None:
    """Who draws lets diffusers run code, so nothing else may name any: no other class, no module of a hub."""
    for path in sorted(folder.rglob("*.json")):
        relative = path.relative_to(folder).as_posix()
        if relative.startswith(f"{EXPERTS}/") or relative == MANIFEST_NAME:
            continue
        try:
            found = from_json(path.read_bytes())
        except ValueError as error:
            raise IntegrityError(f"{path} is not JSON ({error}): do not use this checkpoint") from None
        if isinstance(found, dict) and _NAMES_CODE & found.keys():
            raise IntegrityError(f"{path} names code of its own: do not use this checkpoint")
        if relative == INDEX_NAME and not _is_ours(found):
            raise IntegrityError(
                f"{path} names other classes than such a checkpoint is made of: do not use this checkpoint"
            )


def _is_ours(index: Any) -> bool:
    if not isinstance(index, dict) or index.get("_class_name") != list(PIPELINE_CLASS):
        return False
    named = [value for key, value in index.items() if isinstance(value, list) and key != "_class_name"]
    return all(tuple(value) in _CLASSES for value in named)


def expert_files(expert: CheckpointManifest, number: int) -> dict[str, str]:
    """Where the default weights of a cohort's checkpoint go, by where they are in it."""
    other = "raw" if expert.default_weights == "ema" else "ema"
    return {
        path: f"{part}_{number}/{path.partition('/')[2]}"
        for path in expert.files
        for part in PARTS
        if path.startswith(f"{part}/") and f".{other}." not in path
    }


def _check_weights(manifest: CohortsManifest, expert: CheckpointManifest, number: int) -> None:
    moved = expert_files(expert, number)
    found = _below(manifest.files, tuple(f"{part}_{number}/" for part in PARTS))
    if {place: expert.files[path] for path, place in moved.items()} != found:
        raise IntegrityError(
            f"the weights of expert {number} are not those of {expert.name} of {expert.run_id}: do not use this checkpoint"
        )


def _below(files: Mapping[str, FileEntry], folders: tuple[str, ...]) -> dict[str, FileEntry]:
    return {path: entry for path, entry in files.items() if path.startswith(folders)}
