"""Families that work on latents, with an autoencoder of random weights: they train, and stock diffusers loads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.model.autoencoder import load_autoencoder
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.wire.layout import Layout
from tests.unit.tiny_families import LATENTS, SIDE, UNET, family_overrides, save_autoencoder
from tests.unit.tiny_run import CAPTIONS, spread_weights, tiny_config, tiny_model
from worker.step.compute import CPU
from worker.step.masters import WeightKind
from worker.step.one_device import OneDevice
from worker.step.plan import StepPlan
from worker.trainer import Batch, LeaseTrainer


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("autoencoder")
    save_autoencoder(folder)
    return folder


@pytest.fixture(params=(LATENTS, UNET))
def config(request: pytest.FixtureRequest, autoencoder: Path) -> RunConfig:
    return tiny_config(*family_overrides(request.param, autoencoder))


@pytest.fixture
def model(config: RunConfig) -> DiffusionModel:
    model = tiny_model(config)
    spread_weights(model)
    return model


def test_latents_have_an_eighth_of_the_side(config: RunConfig) -> None:
    assert config.model.sample_shape == (4, 8, 8)


def test_time_and_caption_reach_the_output(model: DiffusionModel) -> None:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    tokens = model.tokenize([CAPTIONS[0]] * 2)
    with torch.no_grad():
        output = model(x, torch.tensor([0.5, 0.5]), tokens)
        later = model(x, torch.tensor([0.9, 0.5]), tokens)
        other = model(x, torch.tensor([0.5, 0.5]), model.tokenize([CAPTIONS[1], CAPTIONS[0]]))
    assert output.shape == x.shape
    for changed in (later, other):
        assert not torch.allclose(output[0], changed[0], atol=1e-4)
        assert torch.allclose(output[1], changed[1], atol=1e-4)


@pytest.mark.parametrize("plan", [StepPlan(), StepPlan(WeightKind.SPLIT, checkpointing=True, release=True)], ids=str)
def test_a_lease_trains(config: RunConfig, model: DiffusionModel, plan: StepPlan) -> None:
    layout = Layout.of(model)
    base = layout.flatten(model)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    trained = LeaseTrainer(config, OneDevice(config, model, layout, CPU, plan)).train(
        base, [Batch(latents, list(CAPTIONS))] * 12, seed=0, learning_rate=1e-3
    )
    assert trained.delta.any()
    assert torch.isfinite(trained.delta).all()


@pytest.mark.filterwarnings("ignore:.LoraLoaderMixin. is deprecated:FutureWarning")  # PRXPipeline's own base
def test_stock_diffusers_loads_and_draws_what_is_exported(
    config: RunConfig, model: DiffusionModel, tmp_path: Path
) -> None:
    model.pipeline().save_pretrained(tmp_path / "out", safe_serialization=True)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out")
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline(
        CAPTIONS[0],
        height=SIDE,
        width=SIDE,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        **model.pipeline_call(),
    ).images[0]
    assert picture.size == (SIDE, SIDE)
    again = tiny_model(config)
    again.adopt(pipeline)
    layout = Layout.of(model)
    assert torch.equal(layout.flatten(model), layout.flatten(again))


@pytest.mark.filterwarnings("ignore:.LoraLoaderMixin. is deprecated:FutureWarning")  # PRXPipeline's own base
@pytest.mark.parametrize(
    "caption", ["A Dark  Square &amp; more", "download: #1 www.example.org/a.png", "", "caf\u00e9"]
)
def test_a_caption_is_tokenized_as_the_pipeline_does_it(model: DiffusionModel, caption: str) -> None:
    pipeline = model.pipeline()
    seen: list[torch.Tensor] = []
    model.text_encoder.register_forward_pre_hook(
        lambda _module, arguments, words: seen.append(words.get("input_ids", arguments[0] if arguments else None)),
        with_kwargs=True,
    )
    pipeline.encode_prompt(caption, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    assert torch.equal(seen[0][0], model.tokenize([caption]).ids_BL[0])


def test_sample_prediction_is_refused(config: RunConfig) -> None:
    wrong = config.model_copy(update={"objective": tiny_config("objective.prediction='sample'").objective})
    with pytest.raises(ConfigError, match=r"set objective\.prediction to 'velocity'"):
        tiny_model(wrong)


def test_an_autoencoder_of_another_shape_or_none_at_all_is_refused(config: RunConfig, tmp_path: Path) -> None:
    latents = config.model.latents
    with pytest.raises(ConfigError, match=r"change model\.latents"):
        load_autoencoder(latents.model_copy(update={"channels": 16}))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_autoencoder(latents.model_copy(update={"autoencoder": str(tmp_path / "nowhere")}))


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["model.kind='unet'"], "model.latents.autoencoder"),
        (["model.latents.autoencoder='a'", "model.image_size=12"], "model.image_size"),
        (["model.unet.channels=[48, 64]"], "model.unet.channels"),
        (["model.latents.autoencoder='a'", "model.kind='unet'", "model.image_size=72"], "model.unet.channels"),
    ],
)
def test_shapes_that_do_not_fit_name_the_key_to_change(overrides: list[str], key: str) -> None:
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        tiny_config(*overrides)
