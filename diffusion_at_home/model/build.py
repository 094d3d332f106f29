"""From config to model: the one place that knows which family a name means."""

from __future__ import annotations

import torch

from diffusion_at_home.config.run import ModelSection, ObjectiveSection
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.prx import PrxPixels


def build_model(config: ModelSection, objective: ObjectiveSection, tokenizer_json: bytes, seed: int) -> DiffusionModel:
    """A model of random fp32 weights on the CPU that are a function of `seed` and the config alone.

    The same bits in every process on one kind of machine; torch's global generators are left as they were. Raises
    `ConfigError` if the sections contradict each other, `DataError` if the tokenizer is not one for this config.
    """
    assert config.kind == "prx"  # the config admits no other
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that one would also seed every CUDA generator, which is not forked here.
        torch.default_generator.manual_seed(seed)
        return PrxPixels(config, objective, tokenizer_json)
