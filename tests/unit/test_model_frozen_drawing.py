"""With a frozen text encoder, too, what is drawn here is what the exported pipeline draws in stock diffusers, in every family."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from coordinator.text_encoder import OWN_NAME
from diffusion_at_home.checkpoint.draw import draw as draw_one
from diffusion_at_home.checkpoint.export import export
from diffusion_at_home.checkpoint.manifest import CheckpointManifest
from diffusion_at_home.checkpoint.verify import verify
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.data.manifest import AUTOENCODER_NAME
from diffusion_at_home.evaluation.drawing import Artist
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.build import build_model
from diffusion_at_home.model.evaluation import Pictures, held_out_loss
from diffusion_at_home.model.frozen import keep_encoder
from diffusion_at_home.model.objective import flow_loss
from diffusion_at_home.model.sampling import draw
from diffusion_at_home.runspec import RunSpec
from diffusion_at_home.wire.layout import Layout
from tests.unit.tiny_checkpoint import DATA, RUN_ID, tiny_facts
from tests.unit.tiny_families import FAMILIES, save_autoencoder
from tests.unit.tiny_run import CAPTIONS, spread_weights, tiny_config
from tests.unit.tiny_text_encoder import LONG_CAPTION, frozen_overrides, kind_of, save_text_encoder

pytestmark = pytest.mark.filterwarnings(
    "ignore:.LoraLoaderMixin. is deprecated:FutureWarning"
)  # PRXPipeline's own base

TEXTS = (*CAPTIONS, "", LONG_CAPTION)


@dataclass(frozen=True)
class Exported:
    folder: Path
    model: DiffusionModel
    manifest: CheckpointManifest
    config: RunConfig


def without_place(config: RunConfig) -> RunConfig:
    """As the specification of a run has it."""
    text = config.model.text.model_copy(update={"encoder": OWN_NAME})
    autoencoder = AUTOENCODER_NAME if config.model.in_latents else "none"
    latents = config.model.latents.model_copy(update={"autoencoder": autoencoder})
    return config.model_copy(update={"model": config.model.model_copy(update={"text": text, "latents": latents})})


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A checkpoint of a run with an encoder of the operator's; not to be changed."""
    root = tmp_path_factory.mktemp("home-of-the-operator")
    save_autoencoder(root / "autoencoder")
    save_text_encoder(root / "encoder", kind_of(request.param))
    drawn = (f"checkpoint.grid_prompts={list(CAPTIONS)}", "checkpoint.grid_columns=1", "checkpoint.sampling_steps=3")
    config = tiny_config(*frozen_overrides(request.param, root / "encoder", root / "autoencoder"), *drawn)
    section, text = keep_encoder(config.model.text, kind_of(request.param), root / "kept")
    section = section.model_copy(update={"encoder": str(root / "kept")})
    config = config.model_copy(update={"model": config.model.model_copy(update={"text": section})})
    spec = RunSpec(
        run_id=RUN_ID, config=without_place(config), data=DATA, tokenizer="", text_encoder=text, receipt_key="0" * 64
    )
    model = build_model(config.model, config.objective, b"", seed=0)
    spread_weights(model)
    layout = Layout.of(model)
    ema = layout.flatten(model)
    facts = tiny_facts(spec=spec)
    manifest = export(model, layout, default=ema, other=ema * 0.5, facts=facts, out=root / "checkpoint")
    return Exported(root / "checkpoint", model.eval(), manifest, config)


@pytest.mark.parametrize("variant", [None, "raw"])
def test_stock_diffusers_draws_what_we_draw(exported: Exported, variant: str | None) -> None:
    model, shape = exported.model, exported.config.model.sample_shape
    layout = Layout.of(model)
    weights = layout.flatten(model)
    layout.load(model, weights * (1.0 if variant is None else 0.5))
    ours = draw(model, TEXTS, steps=3, guidance_scale=2.0, seed=4, size=shape)
    layout.load(model, weights)
    noise = torch.randn(len(TEXTS), *shape, generator=torch.Generator().manual_seed(4))
    pipeline = DiffusionPipeline.from_pretrained(exported.folder, variant=variant)
    pipeline.set_progress_bar_config(disable=True)
    for caption, picture, latents in zip(TEXTS, ours, noise, strict=True):
        theirs = pipeline(caption, latents=latents[None], output_type="np", **exported.manifest.call).images
        as_stock = ((picture[None] + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)
        assert torch.allclose(as_stock, torch.as_tensor(theirs), atol=1e-4)


def test_the_checkpoint_holds_the_encoder_once_and_nothing_of_where_it_lay(exported: Exported) -> None:
    files = verify(exported.folder).files
    assert {"text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/tokenizer.json"} <= set(files)
    assert [name for name in files if name.startswith("text_encoder/") and "raw" in name] == []
    assert exported.manifest.parameters == Layout.of(exported.model).num_elements
    for path in exported.folder.rglob("*.*"):
        assert b"home-of-the-operator" not in path.read_bytes(), path
    assert "pretrained elsewhere" in (exported.folder / "README.md").read_text(encoding="utf-8")


def test_a_downloader_draws_and_evaluates_with_the_encoder_of_the_checkpoint(
    exported: Exported, tmp_path: Path
) -> None:
    settings = {"steps": None, "guidance": None, "variant": None}
    draw_one(exported.folder, CAPTIONS[0], tmp_path / "a.png", seed=1, **settings)  # type: ignore[arg-type]
    shape = exported.config.model.sample_shape
    artist = Artist.load(exported.folder, exported.manifest, "ema")
    theirs = artist.draw(TEXTS, steps=3, guidance=2.0, seed=4, tell=lambda _: None)
    together = [*TEXTS, *[""] * (20 - len(TEXTS))]
    ours = draw(exported.model, together, steps=3, guidance_scale=2.0, seed=4, size=shape)
    assert torch.allclose(theirs, ours[: len(TEXTS)].clamp(-1, 1), atol=1e-4)


def test_the_held_out_loss_is_that_of_the_captions(exported: Exported) -> None:
    model, config, generator = exported.model, exported.config, torch.Generator().manual_seed(0)
    images = torch.randn(3, *config.model.sample_shape, generator=generator)
    found = held_out_loss(model, [Pictures(images, TEXTS[:3])], config.objective, draws=1, seed=5, bins=(0.4,))
    eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        losses = [
            flow_loss(
                model, images[[i]], model.tokenize([TEXTS[i]]), torch.tensor([0.4]), eps[[i]], config.objective
            ).item()
            for i in range(3)
        ]
        other = flow_loss(model, images, model.tokenize(TEXTS[1:4]), torch.full((3,), 0.4), eps, config.objective)
    assert found.mean == pytest.approx(sum(losses) / 3, rel=1e-4)
    assert float(other.mean()) != pytest.approx(found.mean, rel=1e-5)
