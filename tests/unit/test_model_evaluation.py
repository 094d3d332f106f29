from __future__ import annotations

import math

import pytest
import torch

from diffusion_at_home.model.ema import ema_decay, ema_update
from diffusion_at_home.model.evaluation import HeldOutLoss, Pictures, held_out_loss
from diffusion_at_home.wire.layout import Layout
from tests.unit.tiny_run import batches, captions, tiny_config, tiny_model
from worker.step.compute import CPU
from worker.step.one_device import OneDevice
from worker.trainer import LeaseTrainer

CONFIG = tiny_config()
HELD_OUT = batches(1, images=12)[0]


def loss_of(model: object, seed: int = 0) -> HeldOutLoss:
    return held_out_loss(model, [Pictures(HELD_OUT.images_BCHW, captions(12))], CONFIG.objective, draws=2, seed=seed)  # type: ignore[arg-type]


def test_held_out_loss_asks_the_same_questions_every_time() -> None:
    model = tiny_model(CONFIG)
    assert loss_of(model) == loss_of(model)
    assert loss_of(model) != loss_of(model, seed=1)
    assert loss_of(model).images == 12


def test_held_out_loss_falls_when_the_model_is_trained() -> None:
    model = tiny_model(CONFIG)
    layout = Layout.of(model)
    before = loss_of(model)
    trainer = LeaseTrainer(CONFIG, OneDevice(CONFIG, model, layout, CPU))
    trainer.train(layout.flatten(model), batches(40), seed=0, learning_rate=1e-2)
    after = loss_of(model)
    assert after.mean < 0.5 * before.mean
    assert after.mean == pytest.approx(sum(after.bins) / len(after.bins))


def test_broken_model_has_infinite_loss() -> None:
    model = tiny_model(CONFIG)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    assert loss_of(model).mean == math.inf


def test_average_forgets_half_in_one_half_life_whatever_the_steps() -> None:
    one_jump, many = torch.ones(4), torch.ones(4)
    ema_update(one_jump, torch.zeros(4), ema_decay(6000, 6000))
    for images in (1000, 2000, 3000):
        ema_update(many, torch.zeros(4), ema_decay(images, 6000))
    assert one_jump.tolist() == pytest.approx([0.5] * 4)
    assert many.tolist() == pytest.approx([0.5] * 4)
