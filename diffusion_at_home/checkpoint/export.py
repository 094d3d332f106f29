"""Writes a version as a diffusers folder that stock diffusers loads, with card, grid and manifest; all or nothing."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from torch import Tensor

from diffusion_at_home import __version__
from diffusion_at_home.checkpoint.card import model_card
from diffusion_at_home.checkpoint.grid import draw_grid
from diffusion_at_home.checkpoint.manifest import (
    MANIFEST_NAME,
    ROUNDS_NAME,
    CheckpointManifest,
    Contributor,
    DataOrigin,
    FileEntry,
)
from diffusion_at_home.checkpoint.older_readers import for_transformers_4
from diffusion_at_home.checkpoint.rounds import Digests, rounds_bytes
from diffusion_at_home.errors import storage_errors
from diffusion_at_home.evaluation.plot import can_plot, plot_losses
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.outer.state import writing_safetensors
from diffusion_at_home.runspec import RunSpec
from diffusion_at_home.sync import sync_all, sync_folder
from diffusion_at_home.wire.layout import Layout

Which = Literal["raw", "ema"]

CURVE_NAME: Final = "loss.png"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The held-out losses of one version."""

    images: int
    raw: float
    ema: float


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """What the weights alone do not say."""

    spec: RunSpec
    name: str
    version: int
    images: int
    weights_digest: str
    default_weights: Which
    held_out_loss: Mapping[Which, float]
    held_out_bins: tuple[float, ...]
    contributors: tuple[Contributor, ...]
    rounds: tuple[Digests, ...]
    """From version 0 to this one."""
    created_at_ms: int
    evaluated: tuple[Evaluated, ...] = ()
    """What was evaluated on the way to this version and of it, in the order of images: the card's curve."""


def export(
    model: DiffusionModel, layout: Layout, *, default: Tensor, other: Tensor, facts: CheckpointFacts, out: Path
) -> CheckpointManifest:
    """Write the checkpoint to the new folder `out`; returns its manifest. Leaves `model` with the default weights.

    Args:
        model: takes the weights; they are exported in its dtype.
        layout: of `default` and `other`, fp32 (n,).
        default: loads without a variant.
        other: loads with the variant "raw" or "ema", whichever `facts.default_weights` is not.
        facts: goes into manifest and card.
        out: must not exist; appears whole.

    Raises:
        StorageError: nothing is left behind but a hidden folder that the next export replaces.
    """
    draft = out.with_name(f".{out.name}.part")
    with storage_errors(out.parent), writing_safetensors():
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        layout.load(model, other)
        model.eval()
        variant = "raw" if facts.default_weights == "ema" else "ema"
        model.pipeline().save_pretrained(draft, safe_serialization=True, variant=variant)
        for same in (
            ("vae", "text_encoder") if model.frozen else ("vae",)
        ):  # for both: loaders take the file without a variant
            shutil.rmtree(draft / same, ignore_errors=True)
        layout.load(model, default)
        model.pipeline().save_pretrained(draft, safe_serialization=True)
        for_transformers_4(draft)
        single_file = _single_file(facts, model, draft)
        draw_grid(model, facts.spec.config, draft / "grid.png")
        curve = _draw_curve(facts.evaluated, draft / CURVE_NAME)
        (draft / ROUNDS_NAME).write_bytes(rounds_bytes(facts.spec.run_id, facts.rounds))
        manifest = _manifest(model, layout, facts)
        prompt = next(iter(facts.spec.config.checkpoint.grid_prompts), "a picture")
        (draft / "README.md").write_text(model_card(manifest, prompt, single_file, curve=curve), encoding="utf-8")
        manifest = manifest.model_copy(update={"files": file_entries(draft)})
        (draft / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
        sync_all(draft)
        draft.rename(out)
        sync_folder(out.parent)
    return manifest


def _draw_curve(evaluated: Sequence[Evaluated], path: Path) -> str | None:
    """The name of `path`, or None if there is nothing to draw or to draw with."""
    if len(evaluated) < 2 or not can_plot():
        return None
    curves = {"raw": [point.raw for point in evaluated], "ema": [point.ema for point in evaluated]}
    plot_losses([point.images for point in evaluated], curves, path)
    return path.name


def _single_file(facts: CheckpointFacts, model: DiffusionModel, folder: Path) -> str:
    """Write the default weights as one file too, where there are programs that read it; returns what the card says of it."""
    # A coordinator starts without diffusers, which takes seconds to load.
    from diffusion_at_home.checkpoint.single_file import HOW_TO_DRAW, obstacle, write_single_file  # noqa: PLC0415

    config, pipeline = facts.spec.config, model.pipeline()
    why_not = obstacle(config.model, pipeline.tokenizer, getattr(pipeline, "vae", None))
    if why_not is not None:
        return f"There is no single file for A1111 and ComfyUI, because {why_not}."
    name = f"{facts.name}.safetensors"
    write_single_file(pipeline, folder / name, config.run.title or config.run.name)
    return f"`{name}` is the default weights in fp16 as A1111 and ComfyUI name them. {HOW_TO_DRAW}."


def _manifest(model: DiffusionModel, layout: Layout, facts: CheckpointFacts) -> CheckpointManifest:
    spec, config = facts.spec, facts.spec.config
    created = datetime.datetime.fromtimestamp(facts.created_at_ms / 1000, datetime.UTC)
    return CheckpointManifest(
        name=facts.name,
        run_id=spec.run_id,
        run=config.run.name,
        title=config.run.title,
        version=facts.version,
        images=facts.images,
        weights_digest=facts.weights_digest,
        default_weights=facts.default_weights,
        held_out_loss={which: _finite(loss) for which, loss in facts.held_out_loss.items()},
        held_out_bins=tuple(_finite(loss) for loss in facts.held_out_bins),
        parameters=layout.num_elements,
        license=config.run.license,
        created=created.isoformat(timespec="seconds"),
        data=DataOrigin(
            name=spec.data.name,
            digest=spec.data.digest,
            source=spec.data.source,
            license=spec.data.license,
            images=spec.data.num_train_images,
        ),
        contributors=facts.contributors,
        config=json.loads(config.model_dump_json()),
        software=software_versions(),
        call={
            **model.pipeline_call(),
            "num_inference_steps": config.checkpoint.sampling_steps,
            "guidance_scale": config.checkpoint.guidance_scale,
        },
        files={},
    )


def software_versions() -> dict[str, str]:
    """Of what writes a checkpoint."""
    others = {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers")}
    return {"diffusion-at-home": __version__, **others}


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """Every file below `folder` by its path."""
    files: dict[str, FileEntry] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.relative_to(folder).as_posix()] = FileEntry(sha256=sha256, size_bytes=path.stat().st_size)
    return files


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None
