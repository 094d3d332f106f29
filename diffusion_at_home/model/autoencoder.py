"""The autoencoder between pictures and latents: never trained with a run, always loaded from where the operator says."""

from __future__ import annotations

from diffusers import AutoencoderKL

from diffusion_at_home.config.run import LatentsSection
from diffusion_at_home.errors import ConfigError


def load_autoencoder(section: LatentsSection) -> AutoencoderKL:
    """The autoencoder that `section` names, a folder or a hub id. Raises `ConfigError` if it is not what `section` says."""
    try:
        autoencoder = AutoencoderKL.from_pretrained(section.autoencoder)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model.latents.autoencoder = {section.autoencoder!r} cannot be loaded ({str(error).splitlines()[0]}): name a "
            "folder or a hub id of an AutoencoderKL"
        ) from None
    channels, factor = autoencoder.config.latent_channels, 2 ** (len(autoencoder.config.block_out_channels) - 1)
    if (channels, factor) != (section.channels, section.factor):
        raise ConfigError(
            f"model.latents says {section.channels} channels and a factor of {section.factor}, {section.autoencoder} has "
            f"{channels} and {factor}: change model.latents"
        )
    return autoencoder
