"""Whether a config and a data set fit together: asked before a run is made, so that no worker finds out."""

from __future__ import annotations

from diffusion_at_home.config.run import ModelKind, RunConfig
from diffusion_at_home.data.manifest import AutoencoderKind, DataManifest
from diffusion_at_home.errors import ConfigError


def check_fit(config: RunConfig, manifest: DataManifest) -> None:
    """Raise `ConfigError` that names the key to change if the run of `config` cannot train on `manifest`'s samples.

    In latents the autoencoder is loaded: it must be the one that made them.
    """
    where, model = f"the data set in {config.data.path}", config.model
    if manifest.channels != model.channels:
        raise ConfigError(
            f"{where} has {manifest.channels} channels, the model {model.channels}: change model.channels"
        )
    _check_latents(config, manifest)
    side, unit = model.image_size, model.size_unit
    for entry in (*manifest.train, *manifest.held_out):
        if entry.width % unit or entry.height % unit or entry.width * entry.height > side**2:
            raise ConfigError(
                f"{where} has pictures of {entry.width} x {entry.height} pixels, the model takes "
                f"multiples of {unit} up to the area of {side} x {side}: change model.image_size, or build the data again"
            )
    if not manifest.held_out:
        raise ConfigError(f"{where} has no held-out shards: build it again, or change data.path")


def _check_latents(config: RunConfig, manifest: DataManifest) -> None:
    where, section = f"the data set in {config.data.path}", config.model.latents
    if manifest.latents is None:
        if config.model.in_latents:
            raise ConfigError(
                f"model.latents.autoencoder = {section.autoencoder!r}, but {where} holds pictures: make latents of it with "
                f"`dah data encode {config.data.path} OUT --autoencoder {section.autoencoder}` and set data.path to OUT, or "
                "set model.latents.autoencoder to 'none'"
            )
        return
    space = manifest.latents.space
    if not config.model.in_latents:
        raise ConfigError(
            f"{where} holds latents, but model.latents.autoencoder is 'none': set it to the autoencoder that made them, or "
            "data.path to the pictures that `dah data encode` was given"
        )
    if (section.channels, section.factor) != (space.channels, space.factor):
        raise ConfigError(
            f"{where} holds latents of {space.channels} channels and a factor of {space.factor}, model.latents says "
            f"{section.channels} and {section.factor}: change model.latents.channels and model.latents.factor"
        )
    if config.model.kind is ModelKind.UNET and space.kind is not AutoencoderKind.KL:
        raise ConfigError(
            f"{where} holds latents of an {space.kind}, which StableDiffusionPipeline does not decode: set model.kind to "
            "'prx', or encode with an AutoencoderKL"
        )
    from diffusion_at_home.model.autoencoder import latent_space, load_autoencoder  # noqa: PLC0415 -- takes seconds

    if latent_space(load_autoencoder(section)) != space:
        raise ConfigError(
            f"{where} holds latents of another autoencoder than model.latents.autoencoder = {section.autoencoder!r}: name the "
            "one that made them, or run `dah data encode` again"
        )
