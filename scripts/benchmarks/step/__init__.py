"""Step: our trainer against a bare PyTorch loop that takes the same steps, on the processor.

Both train one lease of the same batches from the same weights, in turn, so that each ratio compares neighbours in time.
1 is par; more is what our trainer costs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import bitsandbytes as bnb
import torch
from torch import Tensor, nn

from benchmarks.figures import Figure
from diffusion_at_home.config.run import InnerKind, RunConfig
from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.data.digits import caption
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.build import build_model
from diffusion_at_home.model.objective import drop_captions, flow_loss, sample_times
from diffusion_at_home.model.text import train_tokenizer
from diffusion_at_home.wire.layout import Layout
from worker.step.compute import CPU
from worker.step.one_device import OneDevice
from worker.trainer import Batch, LeaseTrainer

_CONFIG: Final = Path(__file__).resolve().parents[3] / "configs" / "digits.toml"
_MEDIUM: Final = ("model.image_size=16", "model.prx.hidden_size=384", "model.prx.depth=9", "model.prx.heads=6")
_CASES: Final = {
    "digits_adamw8bit": ("inner.batch_images=32",),
    "digits_adamw": ("inner.batch_images=32", "inner.optimizer='adamw'"),
    "30m_adamw8bit": (*_MEDIUM, "inner.batch_images=8"),
    "30m_adamw": (*_MEDIUM, "inner.batch_images=8", "inner.optimizer='adamw'"),
}
_STEPS: Final = {"digits": 20, "30m": 4}


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See `benchmarks.figures.Benchmark`."""
    torch.set_num_threads(1)
    figures: dict[str, Figure] = {}
    for case, changes in _CASES.items():
        config = load_toml(_CONFIG, RunConfig, [*changes, *overrides])
        ours, bare = _measure(config, _STEPS[case.partition("_")[0]], repetitions=3 if quick else 15)
        ratios = tuple(a / b for a, b in zip(ours, bare, strict=True))
        print(f"{case}: {sorted(ratios)[len(ratios) // 2]:.3f}", file=sys.stderr, flush=True)
        figures[f"ratio_{case}"] = Figure(ratios, "1")
        figures[f"step_seconds_{case}"] = Figure(tuple(ours), "s")
        figures[f"step_seconds_{case}_bare"] = Figure(tuple(bare), "s")
    return figures


def _measure(config: RunConfig, steps: int, repetitions: int) -> tuple[list[float], list[float]]:
    """Seconds a step: ours, and the bare loop's."""
    captions = [caption(index % 10) for index in range(config.inner.batch_images)]
    tokenizer = train_tokenizer(captions, config.model.text)
    models = [build_model(config.model, config.objective, tokenizer, seed=0) for _ in range(2)]
    layout = Layout.of(models[0])
    base = layout.flatten(models[0])
    generator = torch.Generator().manual_seed(0)
    shape = (config.inner.batch_images, *config.model.sample_shape)
    batches = [Batch(torch.randn(shape, generator=generator), captions) for _ in range(steps)]
    trainer = LeaseTrainer(config, OneDevice(config, models[0], layout, CPU))

    def ours() -> Tensor:
        return trainer.train(base, batches, seed=0, learning_rate=1e-3).delta

    def bare() -> Tensor:
        return _bare_lease(config, models[1], layout, base, batches)

    difference = ours() - bare()
    assert difference.norm() < 0.05 * bare().norm(), "the two loops do not train the same"
    seconds: list[list[float]] = [[], []]
    for repetition in range(repetitions):
        # Who goes first alternates, so that neither always has the warmer caches.
        pair = [(0, ours), (1, bare)]
        for index, lease in pair if repetition % 2 else reversed(pair):
            seconds[index].append(_timed(lease) / steps)
    return seconds[0], seconds[1]


def _timed(lease: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    lease()
    return time.perf_counter() - started


def _bare_lease(
    config: RunConfig, model: DiffusionModel, layout: Layout, base: Tensor, batches: Sequence[Batch]
) -> Tensor:
    """A lease as one would write it by hand."""
    inner, objective = config.inner, config.objective
    layout.load(model, base)
    model.train()
    betas = (inner.beta1, inner.beta2)
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(model.parameters(), betas=betas, weight_decay=inner.weight_decay, fused=True)
        if inner.optimizer is InnerKind.ADAMW
        else bnb.optim.AdamW8bit(model.parameters(), betas=betas, weight_decay=inner.weight_decay)
    )
    generator = torch.Generator().manual_seed(0)
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / (inner.warmup_steps + 1))
        t_B = sample_times(len(batch.captions), objective, generator)
        eps_BCHW = torch.randn(batch.images_BCHW.shape, generator=generator)
        tokens = model.tokenize(drop_captions(batch.captions, objective.caption_dropout, generator))
        loss = flow_loss(model, batch.images_BCHW, tokens, t_B, eps_BCHW, objective).mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), inner.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
    return base - layout.flatten(model)
