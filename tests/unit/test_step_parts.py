"""The parts of the training step, each against the plain step, over whole leases of a real model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from diffusion_at_home.config.run import InnerKind, RunConfig
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.objective import drop_captions, flow_loss, sample_times
from diffusion_at_home.wire.layout import Layout
from tests.unit.tiny_run import batches, spread_weights, tiny_config, tiny_model
from worker.step.compute import CPU
from worker.step.masters import WeightKind, split
from worker.step.one_device import OneDevice
from worker.step.place import OnDevice
from worker.step.plan import Offload, StepPlan
from worker.step.rules import AdamW8bit, Codebooks, adamw8bit
from worker.trainer import LeaseTrainer

RATE = 1e-3


def config_of(*overrides: str) -> RunConfig:
    """Matrices large enough for 8-bit state."""
    return tiny_config("model.prx.hidden_size=64", "inner.optimizer='adamw8bit'", "inner.clip='tensor'", *overrides)


def lease(plan: StepPlan, *overrides: str, steps: int = 4) -> Tensor:
    """The delta of a lease."""
    config = config_of(*overrides)
    model = tiny_model(config)
    spread_weights(model)
    layout = Layout.of(model)
    base = layout.flatten(model)
    trainer = LeaseTrainer(config, OneDevice(config, model, layout, CPU, plan))
    return trainer.train(base, batches(steps), seed=3, learning_rate=RATE).delta


@pytest.mark.parametrize("kind", [InnerKind.ADAMW, InnerKind.ADAMW8BIT, InnerKind.MUON])
@pytest.mark.parametrize("weights", list(WeightKind))
def test_gradient_release_is_the_plain_step(kind: InnerKind, weights: WeightKind) -> None:
    inner = f"inner.optimizer='{kind}'"
    plain = lease(StepPlan(weights), inner)
    released = lease(StepPlan(weights, release=True), inner)
    assert torch.equal(plain, released)
    assert float(plain.abs().mean()) > RATE / 10


@pytest.mark.parametrize("weights", [WeightKind.FP32, WeightKind.SPLIT])
def test_recomputed_activations_are_the_kept_ones(weights: WeightKind) -> None:
    kept, recomputed = lease(StepPlan(weights)), lease(StepPlan(weights, checkpointing=True))
    assert torch.equal(kept, recomputed)


@pytest.mark.parametrize("weights", list(WeightKind))
@pytest.mark.parametrize("kind", [InnerKind.ADAMW8BIT, InnerKind.MUON])
def test_state_on_the_host_trains_as_state_on_the_device(kind: InnerKind, weights: WeightKind) -> None:
    inner = f"inner.optimizer='{kind}'"
    near, far = (
        lease(StepPlan(weights, release=True, offload=offload), inner) for offload in (Offload.NOTHING, Offload.STATE)
    )
    assert torch.equal(near, far)


def test_accumulated_micro_batches_are_the_batch() -> None:
    whole, accumulated = (lease(StepPlan(micro_batch_images=size), "inner.optimizer='adamw'") for size in (0, 3))
    assert float((whole - accumulated).abs().max()) < RATE / 10


def test_split_weights_train_as_exact_fp32_ones_bit_for_bit() -> None:
    """Fifty steps against fp32 weights of which the network is given a rounded copy each time."""
    config, steps = config_of(), 50
    model = tiny_model(config)
    spread_weights(model)
    layout = Layout.of(model)
    base = layout.flatten(model)
    trainer = LeaseTrainer(config, OneDevice(config, copy.deepcopy(model), layout, CPU, StepPlan(WeightKind.SPLIT)))
    trained = trainer.train(base, batches(steps), seed=3, learning_rate=RATE)
    assert torch.equal(trained.delta, base - naive_fp32(config, model, layout, steps))


def naive_fp32(config: RunConfig, model: DiffusionModel, layout: Layout, steps: int) -> Tensor:
    """Weights after `steps`: fp32 values, fp32 updates by the whole tensor, a bf16 network."""
    parameters = dict(model.named_parameters())
    names = [slot.name for slot in layout.slots]
    exact = {name: parameters[name].detach().clone() for name in names}
    place, codebooks = OnDevice(torch.device("cpu")), Codebooks(torch.device("cpu"))
    rules = {name: adamw8bit(config.inner, exact[name].numel(), place, codebooks) for name in names}
    assert any(isinstance(rule, AdamW8bit) for rule in rules.values())
    network = model.to(torch.bfloat16)
    generator = torch.Generator().manual_seed(3)
    for number, batch in enumerate(batches(steps)):
        for name, parameter in network.named_parameters():
            parameter.data = split(exact[name])[0]
        t_B = sample_times(len(batch.captions), config.objective, generator)
        eps_BCHW = torch.randn(batch.images_BCHW.shape, generator=generator)
        tokens = network.tokenize(drop_captions(batch.captions, config.objective.caption_dropout, generator))
        flow_loss(network, batch.images_BCHW, tokens, t_B, eps_BCHW, config.objective).mean().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None
            gradient = parameter.grad.float()
            gradient *= (config.inner.clip_norm / (gradient.norm() + 1e-6)).clamp(max=1.0)
            rule, whole = rules[name], slice(0, exact[name].numel())
            rule.apply(exact[name].view(-1), gradient.view(-1), rule.state(whole), learning_rate=RATE, step=number + 1)
            parameter.grad = None
    return torch.cat([exact[name].flatten() for name in names])


def test_stochastic_weights_learn_what_exact_ones_learn() -> None:
    """Plain bf16 would keep hardly any of these updates, which are a hundredth of what it can tell apart."""
    overrides = ("inner.optimizer='adamw'", "inner.clip_norm=1e9")
    exact = lease(StepPlan(WeightKind.SPLIT), *overrides, steps=30)
    rounded = lease(StepPlan(WeightKind.STOCHASTIC), *overrides, steps=30)
    assert torch.nn.functional.cosine_similarity(exact, rounded, dim=0) > 0.9
    assert float(rounded.norm() / exact.norm()) == pytest.approx(1, abs=0.15)


def test_released_backward_frees_every_gradient_and_leaves_no_hook() -> None:
    config = config_of()
    model = tiny_model(config)
    layout = Layout.of(model)
    trainer = LeaseTrainer(config, OneDevice(config, model, layout, CPU, StepPlan(release=True)))
    trainer.train(layout.flatten(model), batches(1), seed=0, learning_rate=RATE)
    assert all(parameter.grad is None and not hooks(parameter) for parameter in model.parameters())


def hooks(parameter: nn.Parameter) -> bool:
    return bool(getattr(parameter, "_post_accumulate_grad_hooks", None))
