"""Makes a data set of latents from one of pictures: a shard of latents for each of its shards, same samples, same order.

What a killed run leaves is gone on with: `encoding.json` says which pictures and which autoencoder it was, and a finished
shard is kept if it reads well. The manifest comes last. The autoencoder goes into the folder `autoencoder` of the data set, so
that a run, and whoever wants to see the pictures again, needs nothing else.

On one machine the same pictures and autoencoder give the same bytes, whether it was killed in between or not: batches never
span shards.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from pydantic import ValidationError
from torch import Tensor

from diffusion_at_home.data.latents import Posterior, SampleText, read_latents, write_latents
from diffusion_at_home.data.manifest import (
    AUTOENCODER_NAME,
    MANIFEST_NAME,
    AutoencoderFile,
    DataManifest,
    Latents,
    LatentSpace,
    ShardEntry,
    verify,
)
from diffusion_at_home.data.shards import decode_images, read_shard
from diffusion_at_home.errors import ConfigError, DataError, storage_errors

_SETTINGS_NAME: Final = "encoding.json"
_OURS: Final = re.compile(rf"[A-Za-z0-9._-]+\.(safetensors|tmp)|{AUTOENCODER_NAME}")
"""Shards, the autoencoder, and what was being written."""
_BATCH_PIXELS: Final = 2**20
"""Of all pictures that are encoded together: 16 of 256 x 256."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """An autoencoder, as far as it matters here."""

    space: LatentSpace
    encode: Callable[[Tensor], Posterior]
    """Pictures, fp32 (B, C, H, W) in [-1, 1], to their posterior in `space`."""
    save: Callable[[Path], None]
    """Writes its files into a new folder."""


def encode(
    pictures: Path, out: Path, encoder: Encoder, *, on_samples: Callable[[int], None] = lambda _: None
) -> DataManifest:
    """Make the data set `out` of what `encoder` makes of the one in `pictures`; a finished one is checked and left alone.

    Args:
        pictures: a data set of pictures.
        out: new, or what an earlier call with the same pictures and autoencoder left.
        encoder: what makes latents.
        on_samples: told how many more are done, kept ones included.

    Raises:
        ConfigError: `pictures` are no pictures that the autoencoder takes, or `out` holds something else.
        DataError: a shard of `pictures` or of a finished `out` is damaged.
        StorageError: the disk is full.
    """
    source, space = DataManifest.load(pictures), encoder.space
    remedy = "build the data set again with another step, or take another autoencoder"
    check_pictures(pictures, source, space.factor, remedy)
    latents = Latents(space=space, pictures=source.digest)
    if (out / MANIFEST_NAME).is_file():
        return _existing(out, latents)
    _claim(out, latents)
    files = _saved(out / AUTOENCODER_NAME, encoder)

    def encode_all(entries: tuple[ShardEntry, ...]) -> tuple[ShardEntry, ...]:
        made = []
        for entry in entries:
            target = out / f"{Path(entry.name).stem}.safetensors"
            made.append(
                _kept(target, entry, space) or _encode_shard(pictures, entry, target, source.channels, encoder.encode)
            )
            on_samples(entry.num_samples)
        return tuple(made)

    manifest = source.model_copy(
        update={
            "name": f"{source.name[:56]}-latents",
            "latents": latents.model_copy(update={"files": files}),
            "train": encode_all(source.train),
            "held_out": encode_all(source.held_out),
        }
    )
    manifest.save(out)
    (out / _SETTINGS_NAME).unlink()
    return manifest


def check_pictures(folder: Path, source: DataManifest, factor: int, remedy: str) -> None:
    """Raise `ConfigError` if the data set in `folder` holds nothing that an autoencoder of this factor takes.

    `remedy` is what to do where a picture's sides are no multiples of `factor`.
    """
    if source.latents is not None:
        raise ConfigError(f"{folder} holds latents already: name the data set of pictures that they were made of")
    if source.channels != 3:
        raise ConfigError(f"{folder} holds grey pictures, autoencoders take RGB: build the data set again")
    for entry in (*source.train, *source.held_out):
        if entry.width % factor or entry.height % factor:
            raise ConfigError(
                f"{folder} has pictures of {entry.width} x {entry.height} pixels, no multiples of the autoencoder's factor of "
                f"{factor}: {remedy}"
            )


def _existing(out: Path, latents: Latents) -> DataManifest:
    manifest = DataManifest.load(out)
    if manifest.latents is None or manifest.latents.model_copy(update={"files": ()}) != latents:
        raise ConfigError(f"{out} holds another data set, {manifest.name!r}: choose a new folder")
    try:
        verify(out, manifest)
    except DataError as error:
        raise DataError(f"{str(error).rpartition(': ')[0]}: delete {out} and encode again") from None
    return manifest


def _claim(out: Path, latents: Latents) -> None:
    """Make `out` the folder of this encoding. Raises `ConfigError` if it is that of something else."""
    settings, draft = out / _SETTINGS_NAME, out / f"{_SETTINGS_NAME}.tmp"
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if settings.name in names and not _is_of(settings, latents):
        raise ConfigError(
            f"{out} holds a part of the latents of other pictures, or of another autoencoder's: choose a new folder, or delete it"
        )
    expected = _OURS if settings.name in names else re.compile("")
    if not all(name in {settings.name, draft.name} or expected.fullmatch(name) for name in names):
        raise ConfigError(f"{out} holds something else than a data set: choose a new folder")
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        draft.write_text(latents.model_dump_json(indent=1) + "\n", encoding="utf-8")
        draft.replace(settings)


def _is_of(settings: Path, latents: Latents) -> bool:
    try:
        return Latents.model_validate_json(settings.read_bytes()) == latents
    except ValidationError:
        return False


def _saved(folder: Path, encoder: Encoder) -> tuple[AutoencoderFile, ...]:
    """The autoencoder's files in `folder`, all or nothing."""
    draft = folder.with_suffix(".tmp")
    with storage_errors(folder):
        for old in (draft, folder):
            shutil.rmtree(old, ignore_errors=True)
        encoder.save(draft)
        draft.rename(folder)
    contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    return tuple(
        AutoencoderFile(name=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        for name, data in contents.items()
    )


def _kept(target: Path, entry: ShardEntry, space: LatentSpace) -> ShardEntry | None:
    """The finished shard in `target` for the pictures of `entry`, if there is one."""
    if not target.is_file():
        return None
    try:
        read_latents(target, entry, space)
    except DataError:
        return None
    data = target.read_bytes()
    found = {"name": target.name, "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    return entry.model_copy(update=found)


def _encode_shard(
    pictures: Path, entry: ShardEntry, target: Path, channels: int, encoder: Callable[[Tensor], Posterior]
) -> ShardEntry:
    samples = read_shard(pictures / entry.name, entry)
    batch = max(1, _BATCH_PIXELS // (entry.width * entry.height))
    posteriors = [
        encoder(decode_images(samples[start : start + batch], entry.size, channels))
        for start in range(0, len(samples), batch)
    ]
    posterior = Posterior(
        torch.cat([posterior.means_NCHW for posterior in posteriors]),
        torch.cat([posterior.spreads_NC for posterior in posteriors]),
    )
    return write_latents(target, posterior, [SampleText.of(sample) for sample in samples], entry.size)
