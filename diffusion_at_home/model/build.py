"""From config to model: the one place that knows which family a name means."""

from __future__ import annotations

import torch

from diffusion_at_home.config.run import ModelKind, ModelSection, ObjectiveSection
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.prx import Prx
from diffusion_at_home.model.unet import UNet

_FAMILIES = {ModelKind.PRX: Prx, ModelKind.UNET: UNet}


def build_model(config: ModelSection, objective: ObjectiveSection, tokenizer_json: bytes, seed: int) -> DiffusionModel:
    """A model of random fp32 weights on the CPU that are a function of `seed` and the config alone.

    The same bits in every process on one kind of machine; torch's global generators are left as they were. Raises
    `ConfigError` if the sections contradict each other, `DataError` if the tokenizer is not one for this config.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that one would also seed every CUDA generator, which is not forked here.
        torch.default_generator.manual_seed(seed)
        return _FAMILIES[config.kind](config, objective, tokenizer_json)
