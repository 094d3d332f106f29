from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from diffusion_at_home.config.run import InnerKind, InnerSection
from diffusion_at_home.model.objective import drop_captions, flow_loss, sample_times
from diffusion_at_home.wire.layout import Layout
from tests.unit.tiny_run import batches, tiny_config, tiny_model
from worker.step.compute import CPU
from worker.step.masters import WeightKind
from worker.step.one_device import OneDevice
from worker.step.optimizers import GradientMean, InnerOptimizer, StepParts, inner_optimizer
from worker.step.plan import StepPlan
from worker.step.stepper import Drawn
from worker.step.weights import TrainedWeights
from worker.trainer import Batch, LeaseTrainer, Trained, draw


def train(
    *overrides: str, steps: int = 3, seed: int = 0, after: int = 1000, images: int = 8
) -> tuple[Trained, LeaseTrainer, Tensor]:
    config = tiny_config(*overrides)
    model = tiny_model(config)
    layout = Layout.of(model)
    trainer = LeaseTrainer(config, OneDevice(config, model, layout, CPU))
    base = layout.flatten(model)
    asked: list[bool] = []

    def should_stop() -> bool:
        asked.append(True)
        return len(asked) >= after

    trained = trainer.train(base, batches(steps, images), seed=seed, learning_rate=1e-2, should_stop=should_stop)
    return trained, trainer, base


@pytest.mark.parametrize("kind", list(InnerKind))
def test_same_lease_gives_the_same_delta_bit_for_bit_whatever_was_trained_before(kind: InnerKind) -> None:
    overrides = [f"inner.optimizer='{kind}'"]
    if kind is InnerKind.GRADIENT:
        overrides.append("outer.optimizer='adamw'")
    first, trainer, base = train(*overrides)
    again = trainer.train(base, batches(3), seed=0, learning_rate=1e-2)
    other = trainer.train(base, batches(3), seed=1, learning_rate=1e-2)
    assert first.delta.any()
    assert torch.equal(first.delta, again.delta)
    assert first.mean_loss == again.mean_loss
    assert not torch.equal(first.delta, other.delta)


def test_latents_are_drawn_around_their_means_from_the_seed_of_the_lease() -> None:
    config = tiny_config()
    (plain,) = batches(1)
    spread_B111 = torch.linspace(0, 2, 8)[:, None, None, None]
    latents = replace(plain, spread_BC11=spread_B111.expand(8, 3, 1, 1))

    def drawn(batch: Batch, seed: int) -> Drawn:
        return draw(batch, config.objective, torch.Generator().manual_seed(seed))

    first, again, other = drawn(latents, 0), drawn(latents, 0), drawn(latents, 1)
    assert torch.equal(first.x_BCHW, again.x_BCHW)
    assert not torch.equal(first.x_BCHW, other.x_BCHW)
    noise_BCHW = (first.x_BCHW - plain.images_BCHW) / spread_B111
    assert torch.equal(first.x_BCHW[0], plain.images_BCHW[0])
    assert 0.9 < float(noise_BCHW[1:].std()) < 1.1
    assert abs(float((noise_BCHW[1:] * first.eps_BCHW[1:]).mean())) < 0.1
    pixels = drawn(plain, 0)
    assert torch.equal(first.eps_BCHW, pixels.eps_BCHW)
    assert torch.equal(first.t_B, pixels.t_B)
    assert torch.equal(pixels.x_BCHW, plain.images_BCHW)


def test_stopped_lease_hands_in_the_prefix_it_trained() -> None:
    stopped, _, _ = train(steps=5, after=2)
    prefix, _, _ = train(steps=2)
    assert stopped.images == 16
    assert torch.equal(stopped.delta, prefix.delta)


def test_delta_is_base_minus_trained_weights_and_base_is_untouched() -> None:
    config = tiny_config()
    model = tiny_model(config)
    layout = Layout.of(model)
    base = layout.flatten(model)
    kept = base.clone()
    trained = LeaseTrainer(config, OneDevice(config, model, layout, CPU)).train(
        base, batches(2), seed=0, learning_rate=1e-2
    )
    assert torch.equal(trained.delta, kept - layout.flatten(model))
    assert torch.equal(base, kept)


def test_progress_is_told_after_every_step_and_the_mean_loss_is_over_images() -> None:
    config = tiny_config()
    model = tiny_model(config)
    layout = Layout.of(model)
    steps: list[tuple[int, float]] = []
    lease = [*batches(1, images=8), *batches(1, images=2)]
    trained = LeaseTrainer(config, OneDevice(config, model, layout, CPU)).train(
        layout.flatten(model), lease, seed=0, learning_rate=1e-2, on_step=lambda *step: steps.append(step)
    )
    assert [images for images, _ in steps] == [8, 10]
    assert trained.mean_loss == pytest.approx((8 * steps[0][1] + 2 * steps[1][1]) / 10)


def test_gradient_of_a_lease_is_the_gradient_of_its_mean_loss() -> None:
    config = tiny_config("inner.optimizer='gradient'", "outer.optimizer='adamw'")
    model = tiny_model(config)
    layout = Layout.of(model)
    lease = [*batches(1, images=8), *batches(1, images=2)]
    trained = LeaseTrainer(config, OneDevice(config, model, layout, CPU)).train(
        layout.flatten(model), lease, seed=3, learning_rate=1.0
    )
    generator, losses = torch.Generator().manual_seed(3), []
    for batch in lease:
        t_B = sample_times(len(batch.captions), config.objective, generator)
        eps_BCHW = torch.randn(batch.images_BCHW.shape, generator=generator)
        tokens = model.tokenize(drop_captions(batch.captions, config.objective.caption_dropout, generator))
        losses.append(flow_loss(model, batch.images_BCHW, tokens, t_B, eps_BCHW, config.objective))
    loss = torch.cat(losses).mean()
    names = [slot.name for slot in layout.slots]
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, [parameters[name] for name in names])
    naive = torch.cat([gradient.flatten() for gradient in gradients])
    assert torch.allclose(trained.delta, naive, atol=1e-6)
    assert trained.mean_loss == pytest.approx(float(loss.detach()), rel=1e-5)


def optimizer_of(section: InnerSection, model: nn.Module) -> InnerOptimizer:
    layout, parts = Layout.of(model), StepParts(StepPlan(), CPU)
    weights = TrainedWeights(model, layout, WeightKind.FP32, parts.place, CPU.device)
    config = tiny_config().model_copy(update={"inner": section})
    return inner_optimizer(config, model, weights, parts, 1e-2)


def walk(section: InnerSection, gradient: Callable[[int], Tensor], steps: int) -> Tensor:
    """Weights after `steps` of the lease's optimizer on one matrix of ones."""
    model = nn.Linear(64, 64, bias=False)
    nn.init.ones_(model.weight)
    optimizer = optimizer_of(section, model)
    for step in range(steps):
        model.weight.grad = gradient(step)
        optimizer.step(8)
    return model.weight.detach()


def gradients(step: int) -> Tensor:
    return 10.0**step * torch.randn(64, 64, generator=torch.Generator().manual_seed(step))


def naive_walk(section: InnerSection, steps: int) -> Tensor:
    """AdamW (Loshchilov & Hutter 2019, algorithm 2) by hand, in binary64, with clipping and a linear warm-up."""
    w, m, v = (torch.full((64, 64), value, dtype=torch.float64) for value in (1.0, 0.0, 0.0))
    for step in range(steps):
        g = gradients(step).double()
        g *= min(1.0, section.clip_norm / float(g.norm()))
        rate = 1e-2 * min(1.0, (step + 1) / (section.warmup_steps + 1))
        m = section.beta1 * m + (1 - section.beta1) * g
        v = section.beta2 * v + (1 - section.beta2) * g**2
        m_hat, v_hat = m / (1 - section.beta1 ** (step + 1)), v / (1 - section.beta2 ** (step + 1))
        w = w - rate * section.weight_decay * w - rate * m_hat / (v_hat.sqrt() + 1e-8)
    return w


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [(InnerKind.ADAMW, 1e-5), (InnerKind.ADAMW8BIT, 5e-3)],  # 8 bits cannot hold small moments beside large ones
)
@pytest.mark.parametrize(("warmup_steps", "clip_norm"), [(0, 1.0), (4, 1.0), (0, 1e9)])
def test_steps_follow_adamw_with_clipping_and_warm_up(
    kind: InnerKind, tolerance: float, warmup_steps: int, clip_norm: float
) -> None:
    section = InnerSection(
        optimizer=kind, batch_images=8, warmup_steps=warmup_steps, clip_norm=clip_norm, weight_decay=0.1
    )
    walked, naive = walk(section, gradients, 6), naive_walk(section, 6)
    assert float((naive - 1).abs().mean()) > 1e-2
    assert float((walked - naive).abs().mean()) < tolerance


def test_gradient_of_no_images_is_zero_and_missing_gradients_count_as_zero() -> None:
    model = nn.Linear(2, 2)
    layout = Layout.of(model)
    parts = StepParts(StepPlan(), CPU)
    optimizer = GradientMean(TrainedWeights(model, layout, WeightKind.FP32, parts.place, CPU.device))
    base, delta = layout.flatten(model), torch.full((6,), 9.0)
    optimizer.delta(base, delta)
    assert not delta.any()
    model.weight.grad = torch.ones(2, 2)
    optimizer.step(8)
    optimizer.delta(base, delta)
    assert delta.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
