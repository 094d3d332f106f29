"""Every family trains at sizes that are no squares."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.model.objective import flow_loss
from diffusion_at_home.model.prx import Prx
from tests.unit.tiny_families import FAMILIES, family_overrides
from tests.unit.tiny_run import CAPTIONS, spread_weights, tiny_config, tiny_model

NO_AUTOENCODER = Path("nowhere")
"""Training never loads it."""


@pytest.fixture(params=FAMILIES)
def config(request: pytest.FixtureRequest) -> RunConfig:
    return tiny_config(*family_overrides(request.param, NO_AUTOENCODER))


@pytest.mark.parametrize(("height", "width"), [(4, 8), (8, 4), (2, 8)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_weight_has_a_gradient_at_a_size_that_is_no_square(
    config: RunConfig, height: int, width: int, checkpointing: bool
) -> None:
    model = tiny_model(config)
    spread_weights(model)
    if checkpointing:
        model.recompute_activations()
    model.train()
    x, eps = torch.randn(2, 2, config.model.sample_shape[0], height, width, generator=torch.Generator().manual_seed(0))
    loss_B = flow_loss(model, x, model.tokenize(CAPTIONS), torch.tensor([0.3, 0.8]), eps, config.objective)
    loss_B.mean().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values() if gradient is not None)
    assert sum(bool(gradient.any()) for gradient in gradients.values() if gradient is not None) > 0.9 * len(gradients)


@pytest.mark.parametrize(("height", "width"), [(4, 8), (8, 4)])
def test_a_patch_of_prx_is_told_its_row_and_its_column(height: int, width: int) -> None:
    model = tiny_model(tiny_config())
    assert isinstance(model, Prx)
    seen: list[torch.Tensor] = []
    model.transformer.pe_embedder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    patches: list[torch.Tensor] = []
    model.transformer.img_in.register_forward_pre_hook(lambda _, arguments: patches.append(arguments[0]))
    x = torch.arange(3 * height * width).reshape(1, 3, height, width).float()
    with torch.no_grad():
        model(x, torch.tensor([0.5]), model.tokenize([""]))
    places = [(row, column) for row in range(height // 2) for column in range(width // 2)]
    assert [tuple(place) for place in seen[0][0].long().tolist()] == places
    for (row, column), patch in zip(places, patches[0][0], strict=True):
        there = x[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(patch.sort().values, there.flatten().sort().values)


def test_a_wide_picture_is_not_its_tall_twin(config: RunConfig) -> None:
    model = tiny_model(config).eval()
    spread_weights(model)
    x = torch.randn(1, config.model.sample_shape[0], 4, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wide, tall = (model(each, torch.tensor([0.5]), model.tokenize([""])) for each in (x, x.mT))
    assert not torch.allclose(wide, tall.mT, atol=1e-3)
