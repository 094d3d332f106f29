"""A checkpoint of a tiny run, exported as the coordinator exports one, and a server that offers it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from diffusion_at_home.checkpoint.export import CheckpointFacts, export
from diffusion_at_home.checkpoint.listing import CheckpointListing, ListedCheckpoint
from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME, CheckpointManifest, Contributor
from diffusion_at_home.data.manifest import DataManifest, ShardEntry
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.runspec import RunSpec
from diffusion_at_home.wire.layout import Layout
from tests.unit.tiny_run import CAPTIONS, spread_weights, tiny_config, tiny_model, tiny_tokenizer

PROMPT = CAPTIONS[0]
RUN_ID = "tiny-00000000"
ROUNDS = (("a" * 64, ""), ("b" * 64, "c" * 64), ("d" * 64, "e" * 64), ("3" * 64, "f" * 64))
"""Digests of the versions 0 to 3."""

DATA = DataManifest(
    name="squares",
    source="drawn by a test",
    license="CC0-1.0",
    train=(ShardEntry(name="train-00000.tar", sha256="1" * 64, size_bytes=10_240, num_samples=90, width=4, height=4),),
    held_out=(
        ShardEntry(name="held-out-00000.tar", sha256="2" * 64, size_bytes=10_240, num_samples=10, width=4, height=4),
    ),
)


def tiny_spec(*overrides: str) -> RunSpec:
    config = tiny_config(
        f"checkpoint.grid_prompts={list(CAPTIONS)}",
        "checkpoint.grid_columns=2",
        "checkpoint.sampling_steps=3",
        *overrides,
    )
    return RunSpec(
        run_id=RUN_ID, config=config, data=DATA, tokenizer=tiny_tokenizer(config).decode(), receipt_key="0" * 64
    )


def tiny_facts(name: str = "tiny-000000100", spec: RunSpec | None = None) -> CheckpointFacts:
    return CheckpointFacts(
        spec=spec or tiny_spec(),
        name=name,
        version=3,
        images=100,
        weights_digest="3" * 64,
        default_weights="ema",
        held_out_loss={"raw": 0.5, "ema": 0.25},
        held_out_bins=(0.1, float("nan"), 0.4),
        contributors=(Contributor(worker_id="0123456789abcdef", display_name="Ada", images=100),),
        rounds=ROUNDS,
        created_at_ms=1_700_000_000_000,
    )


def export_tiny(out: Path, facts: CheckpointFacts | None = None) -> tuple[DiffusionModel, CheckpointManifest]:
    """Export a tiny model whose raw weights are half of its EMA weights; returns it with the EMA weights in it."""
    facts = facts or tiny_facts()
    model = tiny_model(facts.spec.config)
    spread_weights(model)
    layout = Layout.of(model)
    ema = layout.flatten(model)
    return model, export(model, layout, default=ema, other=ema * torch.tensor(0.5), facts=facts, out=out)


def listing_of(*folders: Path) -> CheckpointListing:
    """What a coordinator answers that has published `folders`; the first one is the best, the last one the latest."""
    manifests = [CheckpointManifest.model_validate_json((folder / MANIFEST_NAME).read_bytes()) for folder in folders]
    listed = tuple(
        ListedCheckpoint(
            name=manifest.name,
            version=manifest.version,
            images=manifest.images,
            held_out_loss=manifest.held_out_loss[manifest.default_weights],
            default_weights=manifest.default_weights,
            size_bytes=manifest.size_bytes,
            created=manifest.created,
            manifest_sha256=hashlib.sha256((folder / MANIFEST_NAME).read_bytes()).hexdigest(),
        )
        for folder, manifest in zip(folders, manifests, strict=True)
    )
    return CheckpointListing(
        run_id=RUN_ID,
        run="tiny",
        checkpoints=listed,
        latest=listed[-1].name if listed else None,
        best=listed[0].name if listed else None,
    )
