from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from torch import Tensor, nn

from diffusion_at_home.config.run import ObjectiveSection, Prediction
from diffusion_at_home.model.base import DiffusionModel, Tokens
from diffusion_at_home.model.objective import T_MIN, drop_captions, flow_loss, sample_times


class Halver(DiffusionModel):
    """A network whose output is known: half its input plus its time."""

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        mask_BL = torch.ones(len(captions), 1, dtype=torch.bool)
        return Tokens(mask_BL.long(), mask_BL)

    def forward(self, x_BCHW: Tensor, t_B: Tensor, tokens: Tokens) -> Tensor:  # noqa: ARG002
        return x_BCHW / 2 + t_B[:, None, None, None]

    def scheduler(self) -> SchedulerMixin:
        raise NotImplementedError

    def pipeline(self) -> DiffusionPipeline:
        raise NotImplementedError

    def adopt(self, pipeline: DiffusionPipeline) -> None:
        raise NotImplementedError

    def recompute_activations(self) -> None:
        raise NotImplementedError

    def blocks(self) -> list[nn.Module]:
        raise NotImplementedError

    def pipeline_call(self) -> dict[str, object]:
        return {}


def naive_loss(x: np.ndarray, eps: np.ndarray, t: float, prediction: Prediction) -> float:
    """One image, scalar by scalar, in binary64."""
    total = 0.0
    for a, e in zip(x.ravel().tolist(), eps.ravel().tolist(), strict=True):
        x_t = (1 - t) * a + t * e
        output = x_t / 2 + t
        velocity = (x_t - output) / max(t, T_MIN) if prediction is Prediction.SAMPLE else output
        truth = (x_t - a) / max(t, T_MIN) if prediction is Prediction.SAMPLE else e - a
        total += (velocity - truth) ** 2
    return total / x.size


@pytest.mark.parametrize("prediction", list(Prediction))
def test_loss_is_the_naive_velocity_error_of_each_image(prediction: Prediction) -> None:
    generator = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, 5, 3, 4, 4, generator=generator)
    t = torch.tensor([0.001, 0.04, 0.3, 0.7, 0.999])
    loss = flow_loss(Halver(), x, Halver().tokenize([""] * 5), t, eps, ObjectiveSection(prediction=prediction))
    naive = [naive_loss(x[i].numpy(), eps[i].numpy(), float(t[i]), prediction) for i in range(5)]
    assert loss.tolist() == pytest.approx(naive, rel=1e-5)


def test_times_are_logit_normal() -> None:
    objective = ObjectiveSection(t_mean=-0.5, t_std=0.8)
    logits = torch.logit(sample_times(20_000, objective, torch.Generator().manual_seed(0)).double())
    assert float(logits.mean()) == pytest.approx(-0.5, abs=0.02)
    assert float(logits.std()) == pytest.approx(0.8, abs=0.02)


def test_captions_drop_at_their_share_and_never_move_later_draws() -> None:
    captions = ["a cat"] * 10_000
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    dropped = drop_captions(captions, 0.1, generators[0])
    assert dropped.count("") == pytest.approx(1000, abs=100)
    assert drop_captions(captions, 0.0, generators[1]) == captions
    assert torch.equal(torch.rand(4, generator=generators[0]), torch.rand(4, generator=generators[1]))


def test_loss_near_the_data_is_bounded_by_the_smallest_time() -> None:
    x, eps = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    loss = flow_loss(Halver(), x, Halver().tokenize([""]), torch.tensor([1e-6]), eps, ObjectiveSection())
    assert math.isclose(float(loss), (1e-6 / T_MIN) ** 2, rel_tol=1e-4)
