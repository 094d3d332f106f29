"""From latents to pictures: the run's autoencoder, loaded when it is first needed and kept, beside the model and not in it.

What is denoised is (z - shift) * scale of the autoencoder's own latents z. The autoencoder is never trained with a run, so it
must not be a submodule of the model, whose parameters are exactly what is exchanged.

Shapes: B pictures, C channels, H height, W width; a 1 x 1 convolution's weights are (out, in, 1, 1).
"""

from __future__ import annotations

import copy
from functools import cached_property
from typing import Final

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from diffusion_at_home.config.run import LatentsSection
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.model.autoencoder import Autoencoder, decode_latents, load_autoencoder

SD_SCALE: Final = 0.18215
"""The scale of Stable Diffusion 1.x's latents (github.com/CompVis/stable-diffusion, v1-inference.yaml)."""

_CHUNK_PIXELS: Final = 2**18  # of all pictures that are decoded together: 64 of 64 x 64, one of 512 x 512


class Decoder:
    """Decodes latents as the stock pipelines do.

    Raises `ConfigError` at the first use if the autoencoder cannot be loaded or is not what the config says.
    """

    def __init__(self, section: LatentsSection, *, sd_scale: bool = False) -> None:
        """`sd_scale`: restate the autoencoder to Stable Diffusion's scale and no shift, all its pipelines know of."""
        self._section = section
        self._sd_scale = sd_scale

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """As it is exported: its shift is a number if it has one, since `PRXPipeline` adds it."""
        found = load_autoencoder(self._section)
        if self._sd_scale:
            found = restate(found)
        if found.config.get("shift_factor", 0.0) is None:
            found.register_to_config(shift_factor=0.0)
        return found.eval()

    def adopt(self, autoencoder: Autoencoder) -> None:
        """Decode with the autoencoder of a loaded pipeline from now on."""
        self.__dict__["autoencoder"] = autoencoder.eval()

    def __call__(self, latents_BCHW: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in float32 on the CPU, about [-1, 1], not clipped; computed where the latents are."""
        autoencoder = self.autoencoder.to(latents_BCHW.device)
        chunk = max(1, _CHUNK_PIXELS // (latents_BCHW[0, 0].numel() * self._section.factor**2))
        return torch.cat([decode_latents(autoencoder, part) for part in torch.split(latents_BCHW, chunk)])


@torch.no_grad()
def restate(autoencoder: Autoencoder, scale: float = SD_SCALE) -> AutoencoderKL:
    """An autoencoder of the same scaled latents and pictures, whose scale is `scale` and whose shift is 0.

    The 1 x 1 convolutions on both sides of the latents take over the difference: with r = (old scale) / `scale`, the new
    latents are z' = r (z - shift). `autoencoder` itself if nothing is to do, else a copy. Raises `ConfigError` if it is
    no AutoencoderKL, or has no such convolutions.
    """
    if not isinstance(autoencoder, AutoencoderKL):
        raise ConfigError(
            f"the autoencoder is an {type(autoencoder).__name__}, model.kind = 'unet' takes an AutoencoderKL: change "
            "model.latents.autoencoder"
        )
    old, shift = autoencoder.config.scaling_factor, autoencoder.config.shift_factor or 0.0
    if old == scale and not shift:
        return autoencoder
    if autoencoder.quant_conv is None or autoencoder.post_quant_conv is None:
        raise ConfigError(
            f"the autoencoder has scale {old:g} and shift {shift:g}, which model.kind = 'unet' cannot export: name one of "
            f"scale {scale:g} and shift 0, or one with quant_conv and post_quant_conv, in model.latents.autoencoder"
        )
    restated = copy.deepcopy(autoencoder)
    r, channels = old / scale, autoencoder.config.latent_channels
    before, after = restated.quant_conv, restated.post_quant_conv
    assert before.bias is not None
    assert after.bias is not None
    before.bias[:channels] = (before.bias[:channels] - shift) * r  # mean
    before.weight[:channels] *= r
    before.bias[channels:] += 2 * torch.log(torch.tensor(r))  # log of the variance
    after.bias += after.weight.sum(dim=(1, 2, 3)) * shift
    after.weight /= r
    restated.register_to_config(scaling_factor=scale, shift_factor=None)
    return restated
