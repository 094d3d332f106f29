"""Memory: the peak of one full training step of each large config, for every rung of the plan's ladder.

Tracked bytes of tensors under fake tensors; what CUDA takes besides is not in them. The published lows for full training of
models of about this size stand beside: they are peaks of real cards, in GB, each with its source below.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.figures import Figure
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.model.text import placeholder_tokenizer
from worker.memory.choice import GIB, Machine, ladder
from worker.memory.measure import measure

_CONFIGS: Final = Path(__file__).resolve().parents[3] / "configs"
_LARGE: Final = ("sd-unet", "prx-350m", "prx-1b")
_CARD: Final = Machine(6 * GIB, 16 * GIB, is_gpu=True, bf16=True)
_PUBLISHED_GB: Final = {
    "published_sd1_8bit_adam": 9.92,  # github.com/ShivamShrirao/diffusers, DreamBooth on a T4
    "published_sd15_onetrainer": 7.0,  # OneTrainer, pull request 257
    "published_sd1_deepspeed_with_25_gb_of_ram": 8.0,  # diffusers' DreamBooth page: "less than 8"
}


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See `benchmarks.figures.Benchmark`; `overrides` change all configs alike."""
    figures = {f"peak_{name}": Figure((size,), "GB") for name, size in _PUBLISHED_GB.items()}
    for name in _LARGE[1:2] if quick else _LARGE:
        config = load_toml(_CONFIGS / f"{name}.toml", RunConfig, overrides)
        tokenizer = placeholder_tokenizer(config.model.text)
        two = replace(_CARD, devices=2)
        for plan in (*ladder(config, _CARD), *(plan for plan in ladder(config, two) if plan.devices == 2)):
            need = measure(config, tokenizer, plan, autocast=True)
            case = f"{name}_{str(plan).replace(', ', '_').replace(' ', '_')}".replace("-", "_")
            print(f"{case}: {need.device_bytes / GIB:.2f} GiB", file=sys.stderr, flush=True)
            figures[f"peak_{case}"] = Figure((need.device_bytes / GIB,), "GiB")
            figures[f"host_{case}"] = Figure((need.host_bytes(plan.devices) / GIB,), "GiB")
    return figures
