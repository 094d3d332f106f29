"""Trains a small AutoencoderKL from nothing on a data set's pictures, and saves it as a folder that diffusers loads.

The loss of a picture x and its reconstruction y is a sum over its N = C H W numbers, as in latent diffusion (Rombach et al. 2022,
arXiv:2112.10752, appendix G), without its perceptual and adversarial parts, which need other networks:

    sum |x - y| + (x - y)^2 + colour_weight (cx - cy)^2 + gradient_weight sum |dx - dy| + kl_weight KL(q(z|x) || N(0, 1))

where c subtracts from each pixel its grey and d takes differences of neighbours in each row and column: edges stay sharp. The
squares are there because absolute errors alone are content for long with the median, which is the empty background of many
pictures; the colours, because else they come long after the greys. Divided by N, averaged over the batch.

Which pictures, which windows of them and which noise come from the seed alone: on one machine the same settings and pictures give
the same weights, however often the training was killed and started again.

Shapes: B images, C channels, H height, W width.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Annotated, Final, Self

import torch
from diffusers import AutoencoderKL
from pydantic import Field, model_validator
from torch import Tensor

from diffusion_at_home.config.toml import Section
from diffusion_at_home.config.values import Amount, Count, Positive, Rate
from diffusion_at_home.data.encode import check_pictures
from diffusion_at_home.data.manifest import DataManifest, ShardEntry
from diffusion_at_home.data.order import sample_order, shard_order
from diffusion_at_home.data.shards import Sample, decode_images, read_shard
from diffusion_at_home.errors import ConfigError, storage_errors
from diffusion_at_home.model.autoencoder import (
    Autoencoder,
    compression,
    decode_latents,
    encode_pictures,
    weights_digest,
)
from diffusion_at_home.model.autoencoder_progress import Moment, ProgressFile
from diffusion_at_home.outer.state import writing_safetensors
from diffusion_at_home.sync import sync_all, sync_folder

_MEASURED_IMAGES: Final = 512
"""Most held-out pictures for the figures at the end, and most trained ones for the scale of the latents."""
_FIRST_LOG_VARIANCE: Final = -6.0
_BETWEEN_SAVES: Final = timedelta(seconds=30)
"""What a kill costs at most."""


class AutoencoderTraining(Section):
    """How an autoencoder is made; `dah data train-autoencoder --set key=value`."""

    block_out_channels: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=6)] = (32, 64, 64)
    """Features of each resolution, from the finest; each step halves the sides, so three give a factor of 4."""
    layers_per_block: Positive = 1
    """Residual blocks of each resolution, on the way down."""
    latent_channels: Positive = 4
    """Channels of the latents."""
    groups: Positive = 8
    """Groups of the group norms; must divide every entry of block_out_channels."""
    images: Positive = 60_000
    """Pictures trained on, repeats included."""
    batch_images: Positive = 8
    """Pictures in one step."""
    window: Positive = 64
    """Largest side of what is trained on: of larger pictures a random window (pixels)."""
    learning_rate: Rate = 2e-3
    """AdamW's peak; it rises over the first 2 % of the images and falls along a half cosine to nothing (per step)."""
    colour_weight: Amount = 4.0
    """Weight of the squared error of what makes a colour differ from its grey."""
    gradient_weight: Amount = 0.2
    """Weight of the differences between neighbours."""
    kl_weight: Amount = 1e-6
    """Weight of the divergence from unit noise."""
    seed: Count = 0
    """Of weights, windows, order and noise."""

    @property
    def factor(self) -> int:
        """Pixels on a side for each element of latents."""
        return int(2 ** (len(self.block_out_channels) - 1))

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if any(width % self.groups for width in self.block_out_channels):
            raise ValueError(
                f"block_out_channels = {list(self.block_out_channels)} are no multiples of groups = {self.groups}: change groups"
            )
        if self.window % self.factor:
            raise ValueError(f"window = {self.window} is no multiple of the factor, {self.factor}: change window")
        return self


@dataclass(frozen=True, slots=True)
class TrainedAutoencoder:
    """What came of it."""

    folder: str
    factor: int
    channels: int
    parameters: int
    psnr_db: float
    """Peak signal to noise ratio of held-out pictures and their reconstruction from the posterior's mean (dB)."""
    scaling_factor: float
    images: int
    seconds: float
    """Of all processes that trained it."""
    weights_digest: str


def train_autoencoder(
    pictures: Path,
    out: Path,
    settings: AutoencoderTraining,
    *,
    device: torch.device = torch.device("cpu"),  # noqa: B008 -- it is immutable
    on_images: Callable[[int, float], None] = lambda _images, _loss: None,
    between_saves: timedelta = _BETWEEN_SAVES,
) -> TrainedAutoencoder:
    """Train on the train shards of `pictures`, measure on the held-out ones, save to the new folder `out`, all or nothing.

    A training that was killed is gone on with, from what it saved last in a hidden file beside `out`. `on_images` is told the
    images trained so far and the loss of the last step.

    Raises:
        ConfigError: `out` is taken, `pictures` do not fit `settings`, or another training for `out` was begun.
        DataError: `pictures`, or what was saved of the training, is damaged.
        StorageError: the disk is full.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already: choose a new folder")
    manifest = DataManifest.load(pictures)
    check_pictures(pictures, manifest, settings.factor, "change block_out_channels, which give the factor")
    chosen = json.loads(settings.model_dump_json())
    progress = ProgressFile(out.with_name(f".{out.name}.training.safetensors"), manifest.digest, chosen)
    moment = _beginning(settings, device)
    if progress.restore(moment):
        on_images(moment.images, moment.loss)
    _train(moment, _batches(pictures, manifest, settings, moment), settings, on_images, progress, between_saves)
    autoencoder, started = moment.autoencoder, time.monotonic()
    autoencoder.eval().requires_grad_(False)
    scale = 1 / _latent_std(autoencoder, _some(pictures, manifest, manifest.train))
    autoencoder.register_to_config(scaling_factor=scale, shift_factor=0.0)
    psnr_db = psnr(autoencoder, _some(pictures, manifest, manifest.held_out or manifest.train))
    made = TrainedAutoencoder(
        folder=str(out),
        factor=compression(autoencoder),
        channels=settings.latent_channels,
        parameters=sum(parameter.numel() for parameter in autoencoder.parameters()),
        psnr_db=psnr_db,
        scaling_factor=scale,
        images=settings.images,
        seconds=moment.seconds + time.monotonic() - started,
        weights_digest=weights_digest(autoencoder),
    )
    facts = {"pictures": manifest.digest, "license": manifest.license, "psnr_db": psnr_db}
    _save(autoencoder, out, {**facts, "settings": chosen})
    progress.forget()
    return made


def psnr(autoencoder: Autoencoder, batches: Iterator[Tensor]) -> float:
    """Peak signal to noise ratio of pictures in [-1, 1] that went through the latents and back (dB)."""
    squared, numbers = 0.0, 0
    for x_BCHW in batches:
        y_BCHW = decode_latents(autoencoder, encode_pictures(autoencoder, x_BCHW).means_NCHW)
        squared += float((y_BCHW.clamp(-1, 1) - x_BCHW).square().double().sum())
        numbers += x_BCHW.numel()
    return 10 * math.log10(4 * numbers / max(squared, 1e-12))


def _train(
    moment: Moment,
    batches: Iterator[Tensor],
    settings: AutoencoderTraining,
    on_images: Callable[[int, float], None],
    progress: ProgressFile,
    between_saves: timedelta,
) -> None:
    """Step by step from `moment` to the last image, saving now and then and at the end."""
    moment.autoencoder.train()
    saved_at = stepped_at = time.monotonic()
    while moment.images < settings.images:
        _step(moment, next(batches), settings)
        now = time.monotonic()
        moment.seconds += now - stepped_at
        stepped_at = now
        if now - saved_at >= between_saves.total_seconds() or moment.images >= settings.images:
            progress.save(moment)
            saved_at = time.monotonic()
        on_images(moment.images, moment.loss)


def _step(moment: Moment, batch_BCHW: Tensor, settings: AutoencoderTraining) -> None:
    autoencoder, optimizer = moment.autoencoder, moment.optimizer
    left_BCHW = batch_BCHW[: settings.images - moment.images]
    x_BCHW = left_BCHW.to(autoencoder.device, memory_format=torch.channels_last)
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * _schedule((moment.images + len(x_BCHW)) / settings.images)
    loss = _loss(autoencoder, x_BCHW, settings, moment.noise)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
    torch.nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
    optimizer.step()
    moment.batches += 1
    moment.images += len(x_BCHW)
    moment.loss = float(loss.detach())


def _beginning(settings: AutoencoderTraining, device: torch.device) -> Moment:
    """Random generators are on the CPU, whatever the device."""
    autoencoder = _fresh(settings).to(device)
    return Moment(
        autoencoder=autoencoder,
        optimizer=torch.optim.AdamW(autoencoder.parameters(), lr=settings.learning_rate, weight_decay=0.0),
        noise=torch.Generator().manual_seed(settings.seed),
        windows=torch.Generator().manual_seed(settings.seed),
    )


def _fresh(settings: AutoencoderTraining) -> AutoencoderKL:
    """Random weights, a function of the seed; torch's global generators are left as they were."""
    levels = len(settings.block_out_channels)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        autoencoder = AutoencoderKL(
            block_out_channels=settings.block_out_channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=settings.layers_per_block,
            latent_channels=settings.latent_channels,
            norm_num_groups=settings.groups,
            sample_size=settings.window,
            shift_factor=0.0,
        )
    with torch.no_grad():
        # Nearly no noise at first, else it drowns what the encoder has to say and the decoder learns the mean picture.
        autoencoder.quant_conv.bias[settings.latent_channels :].fill_(_FIRST_LOG_VARIANCE)
    return autoencoder.to(memory_format=torch.channels_last)


def _loss(
    autoencoder: AutoencoderKL, x_BCHW: Tensor, settings: AutoencoderTraining, generator: torch.Generator
) -> Tensor:
    posterior = autoencoder.encode(x_BCHW).latent_dist
    y_BCHW = autoencoder.decode(posterior.sample(generator)).sample
    error_BCHW = y_BCHW - x_BCHW
    edges = sum(error_BCHW.diff(dim=axis).abs().sum() for axis in (2, 3))
    colour_BCHW = error_BCHW - error_BCHW.mean(dim=1, keepdim=True)
    pixels = error_BCHW.abs().sum() + error_BCHW.square().sum() + settings.colour_weight * colour_BCHW.square().sum()
    weighted: Tensor = pixels + settings.gradient_weight * edges + settings.kl_weight * posterior.kl().sum()
    return weighted / x_BCHW.numel()


def _schedule(progress: float) -> float:
    """Share of the peak learning rate after `progress` of the images."""
    return min(progress / 0.02, 0.5 * (1 + math.cos(math.pi * progress)), 1.0)


def _batches(pictures: Path, manifest: DataManifest, settings: AutoencoderTraining, moment: Moment) -> Iterator[Tensor]:
    """What comes after the batches of `moment`, without end; of one shard at a time: memory does not grow with the data."""
    opened: tuple[ShardEntry, list[Sample]] | None = None
    for entry, positions in islice(_order(manifest, settings), moment.batches, None):
        if opened is None or opened[0] is not entry:
            opened = entry, read_shard(pictures / entry.name, entry)
        picked = [opened[1][position] for position in positions]
        yield _window(decode_images(picked, entry.size, manifest.channels), settings.window, moment.windows)


def _order(manifest: DataManifest, settings: AutoencoderTraining) -> Iterator[tuple[ShardEntry, tuple[int, ...]]]:
    """Batches of epochs without end, each sample once an epoch, shard by shard: a shard, and places in it."""
    epoch = 0
    while True:
        for index in shard_order(settings.seed, epoch, len(manifest.train)):
            entry = manifest.train[index]
            order = sample_order(settings.seed, epoch, index, entry.num_samples)
            for start in range(0, len(order), settings.batch_images):
                yield entry, order[start : start + settings.batch_images]
        epoch += 1


def _window(x_BCHW: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """The same random window of all pictures, `side` pixels wide and high at most."""
    height, width = x_BCHW.shape[2:]
    top = int(torch.randint(max(0, height - side) + 1, (), generator=generator))
    left = int(torch.randint(max(0, width - side) + 1, (), generator=generator))
    return x_BCHW[:, :, top : top + side, left : left + side]


def _some(pictures: Path, manifest: DataManifest, entries: tuple[ShardEntry, ...]) -> Iterator[Tensor]:
    """The first pictures of `entries`, whole."""
    left = _MEASURED_IMAGES
    for entry in entries:
        samples = read_shard(pictures / entry.name, entry)[:left] if left else []
        batch = max(1, 2**18 // (entry.width * entry.height))
        for start in range(0, len(samples), batch):
            yield decode_images(samples[start : start + batch], entry.size, manifest.channels)
        left -= len(samples)


def _latent_std(autoencoder: AutoencoderKL, batches: Iterator[Tensor]) -> float:
    """Standard deviation of all elements of drawn latents together, before any scaling."""
    numbers, total, squared = 0, 0.0, 0.0
    with torch.no_grad():
        for x_BCHW in batches:
            posterior = autoencoder.encode(x_BCHW.to(autoencoder.device)).latent_dist
            numbers += posterior.mean.numel()
            total += float(posterior.mean.double().sum())
            squared += float((posterior.mean.double().square() + posterior.var.double()).sum())
    return max(math.sqrt(max(0.0, squared / numbers - (total / numbers) ** 2)), 1e-6)


def _save(autoencoder: AutoencoderKL, out: Path, facts: dict[str, object]) -> None:
    draft = out.with_name(f".{out.name}.part")
    with storage_errors(out.parent), writing_safetensors():
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        autoencoder.to(memory_format=torch.contiguous_format)
        autoencoder.save_pretrained(draft, safe_serialization=True)
        (draft / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        sync_all(draft)
        draft.rename(out)
        sync_folder(out.parent)
