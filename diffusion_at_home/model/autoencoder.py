"""The autoencoder between pictures and latents: never trained with a run, always loaded from where the operator says.

Latents are in the space that the stock pipelines denoise in: shifted and scaled by the factors of the autoencoder's config.
`PRXPipeline` undoes both, `StableDiffusionPipeline` only the scale.

Shapes: B images, C channels, H height, W width; the latents' sides are those of the pictures divided by the factor.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import torch
from diffusers import AutoencoderDC, AutoencoderKL
from safetensors import SafetensorError
from torch import Tensor, nn

from diffusion_at_home.config.run import LatentsSection
from diffusion_at_home.data.encode import Encoder
from diffusion_at_home.data.latents import Posterior
from diffusion_at_home.data.manifest import AutoencoderKind, LatentSpace
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.outer.state import writing_safetensors

Autoencoder: TypeAlias = AutoencoderKL | AutoencoderDC

_KINDS: Final[dict[AutoencoderKind, type[Autoencoder]]] = {
    AutoencoderKind.KL: AutoencoderKL,
    AutoencoderKind.DC: AutoencoderDC,
}


def load_autoencoder(section: LatentsSection) -> Autoencoder:
    """The autoencoder that `section` names, a folder or a hub id. Raises `ConfigError` if it is not what `section` says."""
    autoencoder = open_autoencoder(section.autoencoder, named_by="model.latents.autoencoder")
    channels, factor = autoencoder.config.latent_channels, compression(autoencoder)
    if (channels, factor) != (section.channels, section.factor):
        raise ConfigError(
            f"model.latents says {section.channels} channels and a factor of {section.factor}, {section.autoencoder} has "
            f"{channels} and {factor}: change model.latents"
        )
    return autoencoder


def open_autoencoder(name: str, *, named_by: str) -> Autoencoder:
    """The autoencoder `name`, a folder or a hub id, in fp32; `named_by` is the key or option that said so.

    Raises `ConfigError`.
    """
    try:
        kind = AutoencoderKind(AutoencoderKL.load_config(name).get("_class_name", ""))
        autoencoder = _KINDS[kind].from_pretrained(name, torch_dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(
            f"{named_by} = {name!r} cannot be loaded ({(str(error).splitlines() or [''])[0]}): name a folder or a hub id of "
            f"an {' or '.join(_KINDS)}"
        ) from None
    if kind is AutoencoderKind.KL and autoencoder.config.shift_factor is None:
        autoencoder.register_to_config(shift_factor=0.0)  # the pipelines add it: it must be a number
    if Path(name).is_dir():
        autoencoder.register_to_config(_name_or_path=Path(name).name)  # where it lay here is nobody's business
    autoencoder.eval().requires_grad_(False)
    return autoencoder


def latent_space(autoencoder: Autoencoder) -> LatentSpace:
    """What `autoencoder` makes of pictures."""
    return LatentSpace(
        kind=AutoencoderKind(type(autoencoder).__name__),
        autoencoder=weights_digest(autoencoder),
        channels=autoencoder.config.latent_channels,
        factor=compression(autoencoder),
        scaling_factor=autoencoder.config.scaling_factor,
        shift_factor=_shift(autoencoder),
    )


def compression(autoencoder: Autoencoder) -> int:
    """Pixels on a side for each element of latents."""
    if isinstance(autoencoder, AutoencoderDC):
        ratio: int = autoencoder.spatial_compression_ratio
        return ratio
    return int(2 ** (len(autoencoder.config.block_out_channels) - 1))


def weights_digest(autoencoder: nn.Module) -> str:
    """sha256 (hex) of names, shapes and fp32 values: the same whatever files the weights lie in."""
    sha256 = hashlib.sha256(type(autoencoder).__name__.encode())
    for name, tensor in sorted(autoencoder.state_dict().items()):
        sha256.update(f"\n{name} {list(tensor.shape)}\n".encode())
        sha256.update(tensor.detach().cpu().float().contiguous().numpy())
    return sha256.hexdigest()


@torch.no_grad()
def encode_pictures(autoencoder: Autoencoder, images_BCHW: Tensor) -> Posterior:
    """The latents of pictures in [-1, 1], fp32 on the CPU; a spread is the root of the mean variance over H and W."""
    shift, scale = _shift(autoencoder), autoencoder.config.scaling_factor
    encoded = autoencoder.encode(images_BCHW.to(autoencoder.device))
    if isinstance(autoencoder, AutoencoderDC):
        mean_BCHW = encoded.latent
        var_BCHW = torch.zeros_like(mean_BCHW)
    else:
        mean_BCHW, var_BCHW = encoded.latent_dist.mean, encoded.latent_dist.var
    spread_BC = var_BCHW.mean(dim=(2, 3)).sqrt() * scale
    return Posterior(((mean_BCHW - shift) * scale).cpu(), spread_BC.cpu())


@torch.no_grad()
def decode_latents(autoencoder: Autoencoder, latents_BCHW: Tensor) -> Tensor:
    """Pictures of latents, fp32 (B, C, H, W) on the CPU, about [-1, 1], not clipped; as `PRXPipeline` does it."""
    shift, scale = _shift(autoencoder), autoencoder.config.scaling_factor
    z_BCHW = latents_BCHW.to(autoencoder.device, autoencoder.dtype) / scale + shift
    decoded_BCHW: Tensor = autoencoder.decode(z_BCHW).sample
    return decoded_BCHW.float().cpu()


def encoder_of(autoencoder: Autoencoder) -> Encoder:
    """What makes a data set of latents."""

    def save(folder: Path) -> None:
        with writing_safetensors():
            autoencoder.save_pretrained(folder, safe_serialization=True)

    return Encoder(latent_space(autoencoder), partial(encode_pictures, autoencoder), save)


def _shift(autoencoder: Autoencoder) -> float:
    """0 for an AutoencoderDC, which knows none."""
    return float(autoencoder.config.get("shift_factor") or 0.0)
