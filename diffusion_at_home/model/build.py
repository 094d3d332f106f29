"""From config to model: the one place that knows which family a name means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from diffusion_at_home.config.run import ModelKind, ModelSection, ObjectiveSection
from diffusion_at_home.model.base import DiffusionModel

if TYPE_CHECKING:
    from diffusion_at_home.model.prx import Prx
    from diffusion_at_home.model.unet import UNet


def build_model(config: ModelSection, objective: ObjectiveSection, tokenizer_json: bytes, seed: int) -> DiffusionModel:
    """A model of random weights on the CPU, of the default dtype, that are a function of `seed` and the config alone.

    The same bits in every process on one kind of machine; torch's global generators are left as they were. Raises
    `ConfigError` if the sections contradict each other, `DataError` if the tokenizer is not one for this config.
    """
    family = model_family(config.kind)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that one would also seed every CUDA generator, which is not forked here.
        torch.default_generator.manual_seed(seed)
        return family(config, objective, tokenizer_json)


def model_family(kind: ModelKind) -> type[Prx] | type[UNet]:
    """The class of `kind`; the first call loads its libraries, which takes seconds."""
    match kind:
        case ModelKind.PRX:
            from diffusion_at_home.model.prx import Prx  # noqa: PLC0415 -- each loads pipelines that the other needs not

            return Prx
        case ModelKind.UNET:
            from diffusion_at_home.model.unet import UNet  # noqa: PLC0415

            return UNet
