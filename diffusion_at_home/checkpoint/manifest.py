"""A checkpoint's manifest: every file with its sha256, and what the weights are made from. `manifest.json` in the folder.

It comes from a server that nobody trusts: paths are plain and relative, sizes and counts are bounded, and no file is of a
kind that a loader would run or unpickle.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import from_json

from diffusion_at_home.config.toml import Section, first_mistake
from diffusion_at_home.config.values import Name
from diffusion_at_home.errors import ConfigError, IntegrityError

MANIFEST_NAME: Final = "manifest.json"
SIGNATURE_NAME: Final = "signature.json"
"""Beside it, once somebody has signed it: see `diffusion_at_home.checkpoint.signature`."""
PIPELINE_NAME: Final = "pipeline.py"
"""The one file of code: of a checkpoint that is made of cohorts' experts, and always ours, byte for byte."""
ROUNDS_NAME: Final = "rounds.json"
"""One of the files: see `diffusion_at_home.checkpoint.rounds`."""
MAX_MANIFEST_BYTES: Final = 16 * 2**20
MAX_FILE_BYTES: Final = 2**40

_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_SUFFIXES: Final = (".safetensors", ".json", ".md", ".txt", ".png")
"""Nothing in these is ever executed or unpickled."""
_MAX_FILES: Final = 512
_MAX_CONTRIBUTORS: Final = 1_000_000


def _plain_path(path: str) -> str:
    parts = path.split("/")
    if len(parts) > 8 or not all(_PART.fullmatch(part) for part in parts):
        raise ValueError(f"path {path!r} is not plain and relative")
    if PurePosixPath(path).suffix not in _SUFFIXES:
        raise ValueError(f"{path!r} is none of the kinds of file a checkpoint has ({', '.join(_SUFFIXES)})")
    return path


def _a_tree(files: dict[str, FileEntry]) -> dict[str, FileEntry]:
    if MANIFEST_NAME in files:
        raise ValueError(f"{MANIFEST_NAME} is listed in itself")
    if SIGNATURE_NAME in files:
        raise ValueError(f"{SIGNATURE_NAME} is listed, which is made after the manifest")
    for path in files:
        for parent in PurePosixPath(path).parents:
            if str(parent) in files:
                raise ValueError(f"{str(parent)!r} is listed as a file and as a folder")
    return files


def _plain_path_or_pipeline(path: str) -> str:
    return path if path == PIPELINE_NAME else _plain_path(path)


FilePath = Annotated[str, AfterValidator(_plain_path)]
"""Relative, with '/', of plain names."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
CheckpointName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,127}$")]
RunId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,79}$")]
Weights = Literal["raw", "ema"]


class FileEntry(Section):
    """One file."""

    sha256: Sha256
    """Of the whole file (hex)."""
    size_bytes: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]
    """Of the whole file."""


class Contributor(Section):
    """One worker's part in a version."""

    worker_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """`diffusion_at_home.identity.WorkerId`."""
    display_name: Annotated[str, Field(max_length=64)]
    """What the volunteer calls itself: never trusted, always escaped."""
    images: Annotated[int, Field(ge=0)]
    """Images credited up to that version."""


class DataOrigin(Section):
    """What the weights were trained on."""

    name: str
    """`DataManifest.name`."""
    digest: Sha256
    """Of the data set's manifest."""
    source: str
    """Where the pictures come from."""
    license: str
    """Of the pictures."""
    images: int
    """Train images in the data set."""


class CheckpointManifest(Section):
    """Everything that can be checked of a checkpoint, and where it comes from."""

    format: Literal[1] = 1
    """Of this file."""
    name: CheckpointName
    """Unique in its run."""
    run_id: RunId
    """`RunSpec.run_id`."""
    run: Name
    """run.name of the config."""
    title: str
    """run.title of the config: one line for people."""
    version: int
    """Outer steps, which is the number of rounds."""
    images: int
    """Images trained."""
    weights_digest: Sha256
    """Of the run's published version, which all workers held."""
    default_weights: Weights
    """What loads without a variant; the other one is the variant of its name."""
    held_out_loss: dict[Weights, float | None]
    """None when it was not finite."""
    held_out_bins: tuple[float | None, ...]
    """Of the default weights, by time."""
    parameters: int
    """Trained ones, text encoder included."""
    license: str
    """SPDX licence of the weights."""
    created: str
    """ISO 8601, UTC."""
    data: DataOrigin
    contributors: Annotated[tuple[Contributor, ...], Field(max_length=_MAX_CONTRIBUTORS)]
    config: dict[str, Any]
    """The run's resolved config."""
    software: dict[str, str]
    """Versions of what wrote it."""
    call: Annotated[dict[Annotated[str, Field(pattern=r"^[a-z_]{1,64}$")], bool | int | float], Field(max_length=16)]
    """Keyword arguments the pipeline needs besides the prompt, and the sampling the run recommends."""
    files: Annotated[dict[FilePath, FileEntry], Field(max_length=_MAX_FILES), AfterValidator(_a_tree)]
    """Every file of the folder but this one."""

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(entry.size_bytes for entry in self.files.values())

    @property
    def variants(self) -> tuple[Weights, ...]:
        """The sets of weights that are in it."""
        return ("raw", "ema")


class CohortOrigin(Section):
    """The checkpoint of one cohort's run, which is one expert of a `CohortsManifest`."""

    run_id: RunId
    """`RunSpec.run_id` of its run."""
    name: CheckpointName
    """Unique in its run."""
    manifest_sha256: Sha256
    """Of that checkpoint's manifest.json, which lies beside this one as `experts/<number>.json`, numbered from 1."""
    weights_digest: Sha256
    """As its manifest has it."""
    images: int
    """Images trained."""


class CohortsManifest(CheckpointManifest):
    """Of a checkpoint that is made of several: a mixture of experts, each from a run of its own.

    `images` and `version` are sums over the runs, `weights_digest` is the sha256 of theirs, and there is no `rounds.json`.
    """

    cohorts: Annotated[tuple[CohortOrigin, ...], Field(min_length=2, max_length=8)]
    """In the order of the router's numbers."""
    files: Annotated[
        dict[Annotated[str, AfterValidator(_plain_path_or_pipeline)], FileEntry],
        Field(max_length=_MAX_FILES),
        AfterValidator(_a_tree),
    ]
    """Every file of the folder but this one; one of them is `PIPELINE_NAME`."""

    @property
    def variants(self) -> tuple[Weights, ...]:
        """The sets of weights that are in it: of each expert its default ones alone."""
        return (self.default_weights,)


def parse_manifest(data: bytes, source: str) -> CheckpointManifest:
    """Parse what came from `source`: a `CohortsManifest` if it names cohorts. Raises `IntegrityError`."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise IntegrityError(f"{source} is larger than any manifest: do not use this checkpoint")
    try:
        return (CohortsManifest if _names_cohorts(data) else CheckpointManifest).model_validate_json(data)
    except ValidationError as error:
        raise IntegrityError(
            f"{source} is not a checkpoint's manifest ({first_mistake(error)}): do not use this checkpoint"
        ) from None


def _names_cohorts(data: bytes) -> bool:
    try:
        found = from_json(data)
    except ValueError:
        return False  # the parser says what is wrong with it
    return isinstance(found, dict) and "cohorts" in found


def load_manifest(folder: Path) -> CheckpointManifest:
    """The manifest of the checkpoint in `folder`. Raises `IntegrityError`."""
    if not (folder / MANIFEST_NAME).is_file():
        raise IntegrityError(
            f"{folder / MANIFEST_NAME} does not exist: {folder} is not a checkpoint, or not a whole one"
        )
    return load_manifest_file(folder / MANIFEST_NAME)


def load_manifest_file(path: Path) -> CheckpointManifest:
    """The manifest in the file `path`. Raises `IntegrityError`."""
    if not path.is_file():
        raise IntegrityError(f"{path} does not exist: name a checkpoint's folder, or its manifest")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise IntegrityError(f"{path} is larger than any manifest: do not use this checkpoint")
    return parse_manifest(path.read_bytes(), str(path))


def weights_named(variant: str | None) -> Weights | None:
    """What --variant means. Raises `ConfigError`."""
    match variant:
        case None | "raw" | "ema":
            return variant
        case _:
            raise ConfigError(f"--variant {variant!r} must be raw or ema")
