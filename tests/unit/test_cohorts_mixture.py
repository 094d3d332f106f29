"""A mixture follows the router: as many experts as are asked for, weighed, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from diffusion_at_home.cohorts.pipeline import Encoders, Mixture, mix, read_logits, shares
from diffusion_at_home.model.build import build_model
from tests.unit.tiny_run import CAPTIONS, spread_weights, tiny_config, tiny_model, tiny_tokenizer


class Counting(nn.Module):
    """A transformer that counts the rows it is asked for."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.config = inner.config
        self.rows = 0

    def forward(self, hidden_states: Tensor, **rest: Tensor) -> tuple[Tensor]:
        self.rows += len(hidden_states)
        found: tuple[Tensor] = self.inner(hidden_states=hidden_states, **rest)
        return found


def test_the_likeliest_experts_count_and_the_others_are_exactly_nothing() -> None:
    logits = torch.tensor([[0.0, 1.0, 3.0], [2.0, -1.0, 2.0]])
    assert torch.equal(shares(logits, 1)[0], torch.tensor([0.0, 0.0, 1.0]))
    two = shares(logits, 2)
    assert two[0, 0] == 0
    assert two[0, 2] / two[0, 1] == pytest.approx(torch.tensor(2.0).exp().item())
    assert torch.allclose(shares(logits, 3), logits.softmax(dim=1))


def test_a_mean_is_taken_row_by_row() -> None:
    values = torch.tensor([[1.0], [10.0], [100.0]])
    weights = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]])
    asked = list[tuple[int, list[int]]]()

    def predict(k: int, rows: Tensor) -> Tensor:
        asked.append((k, rows.tolist()))
        return values[k].expand(len(rows), 1)

    assert torch.allclose(mix(predict, weights), torch.tensor([[7.75], [100.0]]))
    assert asked == [(0, [0]), (1, [0]), (2, [1])]


@pytest.mark.parametrize(("channels", "num_experts"), [(3, 2), (3, 8), (1, 8), (4, 4)])
def test_a_router_s_output_has_a_number_for_each_expert(channels: int, num_experts: int) -> None:
    assert read_logits(torch.randn(5, channels, 8, 8), num_experts).shape == (5, num_experts)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_equal_experts_are_the_single_model(top_k: int) -> None:
    model, router = tiny_model(tiny_config()).eval(), tiny_model(tiny_config(), seed=5).eval()
    for one in (model, router):
        spread_weights(one)
    x_BCHW, t_B = torch.randn(4, 3, 4, 4), torch.rand(4)
    text = model.tokenize([*CAPTIONS, "", "a"])
    with torch.no_grad():
        expected = model(x_BCHW, t_B, text)
        mixture = Mixture([model.transformer] * 3, router.transformer, top_k)
        encoders = Encoders([model.text_encoder] * 3 + [router.text_encoder])
        features = encoders(input_ids=text.ids_BL, attention_mask=text.mask_BL).last_hidden_state
        (found,) = mixture(x_BCHW, t_B, features, text.mask_BL)
    assert (found - expected).abs().max() < 1e-5


def test_each_row_goes_through_one_expert_where_one_is_asked_for() -> None:
    config = tiny_config()
    models = [build_model(config.model, config.objective, tiny_tokenizer(config), seed) for seed in range(3)]
    for model in models:
        spread_weights(model)
    experts = [Counting(model.transformer) for model in models[:2]]
    mixture = Mixture(experts, models[2].transformer, 1)
    with torch.no_grad():
        mixture(torch.randn(8, 3, 4, 4), torch.tensor([0.5]), torch.randn(8, 6, 3 * 16), torch.ones(8, 6).bool())
    assert sum(expert.rows for expert in experts) == 8
