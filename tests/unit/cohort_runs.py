"""Two cohorts of tiny runs: the data that was cut, a checkpoint of each, and a router."""

from __future__ import annotations

from pathlib import Path

import torch

from diffusion_at_home.checkpoint.export import export
from diffusion_at_home.cohorts.cut import CutPlan, cut
from diffusion_at_home.cohorts.description import Cohorts
from diffusion_at_home.cohorts.router import RouterSettings, save_router
from diffusion_at_home.cohorts.router_training import shared_tokenizer, train_router
from diffusion_at_home.cohorts.runs import cohort_config
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.data.manifest import DataManifest
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.build import build_model
from diffusion_at_home.runspec import RunSpec
from diffusion_at_home.wire.layout import Layout
from tests.unit.tiny_checkpoint import tiny_facts, tiny_spec
from tests.unit.tiny_data import build_tiny_data
from tests.unit.tiny_run import spread_weights

ROUTER = RouterSettings(
    images=1600, batch_images=16, hidden_size=16, depth=1, heads=2, text_hidden_size=16, learning_rate=5e-3
)


def cut_tiny_data(root: Path) -> Cohorts:
    """The dark squares and the bright ones, in root/cut."""
    build_tiny_data(root / "data")
    return cut(CutPlan(root / "data", root / "cut", 2))


def save_tiny_router(root: Path, settings: RouterSettings = ROUTER) -> None:
    """Train a router for root/cut into root/router."""
    config = tiny_spec().config
    router, facts = train_router(root / "cut", config, settings, device=torch.device("cpu"))
    save_router(router, facts, root / "router")


def export_expert(root: Path, number: int, seed: int) -> DiffusionModel:
    """A checkpoint of cohort `number` of root/cut in root/expert-<number>, of weights of `seed`; returns the model."""
    cut_folder = root / "cut"
    folders = [cut_folder / f"cohort-{k}" for k in (1, 2)]
    config = tiny_spec().config
    tokenizer = shared_tokenizer(folders, config)
    own: RunConfig = cohort_config(config, folders[number - 1], number, root / "tokenizer.json")
    spec = RunSpec(
        run_id=f"tiny-{number}-00000000",
        config=own,
        data=DataManifest.load(folders[number - 1]),
        tokenizer=tokenizer.decode(),
        receipt_key="0" * 64,
    )
    model = build_model(own.model, own.objective, tokenizer, seed)
    spread_weights(model)
    layout = Layout.of(model)
    weights = layout.flatten(model) * (1 + 0.1 * seed)
    export(
        model, layout, default=weights, other=weights * 0.5, facts=tiny_facts(spec=spec), out=root / f"expert-{number}"
    )
    return model
