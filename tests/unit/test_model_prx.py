from __future__ import annotations

import pytest
import torch

from diffusion_at_home.config.run import Prediction
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.model.sampling import sample
from tests.unit.tiny_run import CAPTIONS, same_bits, spread_weights, tiny_config, tiny_model


def test_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    config = tiny_config()
    first, again, other = (list(tiny_model(config, seed).parameters()) for seed in (5, 5, 6))
    assert same_bits(first, again)
    assert not same_bits(first, other)


def test_building_leaves_the_global_generator_where_it_was() -> None:
    before = torch.get_rng_state()
    tiny_model(tiny_config(), seed=9)
    assert torch.equal(torch.get_rng_state(), before)


def test_network_answers_in_the_shape_it_was_asked_for() -> None:
    model = tiny_model(tiny_config())
    for height, width in ((4, 4), (6, 4)):
        x = torch.zeros(2, 3, height, width)
        assert model(x, torch.tensor([0.1, 0.9]), model.tokenize(CAPTIONS)).shape == x.shape


def test_caption_and_time_reach_the_output() -> None:
    model = tiny_model(tiny_config())
    spread_weights(model)
    x, t = torch.zeros(2, 3, 4, 4), torch.tensor([0.5, 0.5])
    dark_bright = model(x, t, model.tokenize(CAPTIONS))
    assert not torch.allclose(dark_bright[0], dark_bright[1], atol=1e-4)
    assert not torch.allclose(dark_bright, model(x, t * 0.2, model.tokenize(CAPTIONS)), atol=1e-4)


def test_row_of_a_batch_does_not_depend_on_its_neighbours() -> None:
    model = tiny_model(tiny_config())
    spread_weights(model)
    x, t = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0.2, 0.8])
    together = model(x, t, model.tokenize(["a dark square", ""]))
    alone = model(x[1:], t[1:], model.tokenize([""]))
    assert torch.allclose(together[1:], alone, atol=1e-6)


def test_velocity_prediction_is_refused_when_the_model_is_built() -> None:
    config = tiny_config(f"objective.prediction='{Prediction.VELOCITY}'")
    with pytest.raises(ConfigError, match=r"set objective\.prediction to 'sample'"):
        tiny_model(config)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_sample_draws_what_the_stock_pipeline_draws(guidance_scale: float) -> None:
    model = tiny_model(tiny_config()).eval()
    spread_weights(model)
    ours = sample(model, ["a dark square"], steps=5, guidance_scale=guidance_scale, seed=4, size=(3, 4, 4))
    pipeline = model.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    stock = pipeline(
        "a dark square",
        latents=torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(4)),
        num_inference_steps=5,
        guidance_scale=guidance_scale,
        output_type="pt",
        **model.pipeline_call(),
    ).images
    assert torch.allclose(ours, stock, atol=1e-5)


def test_picture_depends_on_the_seed_and_its_place_but_not_on_the_other_captions() -> None:
    model = tiny_model(tiny_config())
    spread_weights(model)
    settings = {"steps": 3, "guidance_scale": 2.0, "size": (3, 4, 4)}
    both = sample(model, ["a dark square", "a bright square"], seed=1, **settings)  # type: ignore[arg-type]
    same = sample(model, ["a dark square", ""], seed=1, **settings)  # type: ignore[arg-type]
    other = sample(model, ["a dark square", ""], seed=2, **settings)  # type: ignore[arg-type]
    assert torch.allclose(both[0], same[0], atol=1e-5)
    assert not torch.allclose(same[0], other[0], atol=1e-2)
