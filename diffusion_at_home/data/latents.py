"""A shard of latents: what an autoencoder made of a shard of pictures, about 4 kB for a picture of 256 x 256 pixels.

A safetensors file (https://github.com/huggingface/safetensors) of four tensors, for N samples in the order of their pictures,
C channels, and height h and width w, which are those of the pictures divided by the autoencoder's factor:

    means    I8   (N, C, h, w)  the posterior's mean is means[n, c] x scales[n, c]
    scales   F16  (N, C)        not negative
    spreads  F16  (N, C)        the posterior's standard deviation, root of its mean square over h and w; 0 where there is none
    texts    U8   (T,)          a zlib stream (RFC 1950) of N lines of JSON in UTF-8, parted by one line feed each

and one entry of its metadata: `dah-latents-1`, whose value is the length of the texts once inflated. A line is an object of
`key`, `caption`, `source`, `license`, and, where there are any, `author` and the list `further_captions`.

Means and spreads are in the space that pipelines denoise in: shifted and scaled as `LatentSpace` says.

A shard is read as if an enemy had made it: names, shapes and types are compared with the manifest's entry before anything
is allocated, texts are inflated up to what they declare, and what is not finite is refused.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Self

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffusion_at_home.config.toml import Section, first_mistake
from diffusion_at_home.data.manifest import DataManifest, LatentSpace, ShardEntry, Size
from diffusion_at_home.data.shards import MAX_TEXT_BYTES, Sample, read_shard
from diffusion_at_home.errors import DataError, storage_errors

MAX_TEXTS_BYTES: Final = 64 * 2**20
"""Of all texts of a shard, inflated."""
_MAX_HEADER_BYTES: Final = 4096
_MAX_LINE_BYTES: Final = 8 * MAX_TEXT_BYTES  # JSON may take six bytes for one
_FORMAT: Final = "dah-latents-1"
_LARGEST_LEVEL: Final = 127
_REMEDY: Final = "make it again with `dah data encode`"


class SampleText(Section):
    """Everything of a sample but its picture."""

    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")]
    """Unique in its shard."""
    caption: str
    source: str
    license: str
    author: str = ""
    further_captions: tuple[str, ...] = ()

    @classmethod
    def of(cls, sample: Sample) -> Self:
        """That of a picture."""
        return cls(
            key=sample.key,
            caption=sample.caption,
            source=sample.source,
            license=sample.license,
            author=sample.author,
            further_captions=sample.further_captions,
        )


@dataclass(frozen=True, slots=True)
class Posterior:
    """What an autoencoder says of pictures."""

    means_NCHW: Tensor
    """fp32."""
    spreads_NC: Tensor
    """fp32, standard deviations."""


@dataclass(frozen=True, slots=True)
class LatentShard:
    """A shard in memory, one byte an element."""

    levels_NCHW: Tensor
    """int8."""
    scales_NC: Tensor
    """fp16."""
    spreads_NC: Tensor
    """fp16."""
    texts: list[SampleText]

    def posterior(self, positions: Sequence[int]) -> Posterior:
        """That of the samples at `positions` of the file."""
        picked = list(positions)
        scales_N = self.scales_NC[picked].float()[:, :, None, None]
        return Posterior(self.levels_NCHW[picked].float() * scales_N, self.spreads_NC[picked].float())


def latent_size(entry: ShardEntry, space: LatentSpace) -> Size:
    """Width and height of the latents of `entry`'s pictures."""
    return entry.width // space.factor, entry.height // space.factor


def quantize(means_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Levels, int8 (N, C, H, W), and scales, fp16 (N, C), whose products are nearest to `means_NCHW` (fp32).

    An element is off by half a scale at most, which is a 254th of the largest one in its sample and channel.
    """
    scales_NC = (means_NCHW.abs().amax(dim=(2, 3)) / _LARGEST_LEVEL).half()
    steps_NC = torch.where(scales_NC > 0, scales_NC.float(), torch.inf)
    levels_NCHW = (
        (means_NCHW.contiguous() / steps_NC[:, :, None, None]).round_().clamp_(-_LARGEST_LEVEL, _LARGEST_LEVEL)
    )
    return levels_NCHW.to(torch.int8), scales_NC


def write_latents(path: Path, posterior: Posterior, texts: Sequence[SampleText], size: Size) -> ShardEntry:
    """Write a shard to `path`, durable and all or nothing; `size` is that of the pictures.

    Raises `DataError` on latents that are not finite in fp16 or on too much text, `StorageError`.
    """
    levels_NCHW, scales_NC = quantize(posterior.means_NCHW)
    spreads_NC = posterior.spreads_NC.half()
    if not (scales_NC.isfinite().all() and spreads_NC.isfinite().all()):
        raise DataError(f"{path.name}: the autoencoder's latents are not finite: use another autoencoder")
    lines = "\n".join(text.model_dump_json(exclude_defaults=True) for text in texts).encode()
    if len(lines) > MAX_TEXTS_BYTES:
        raise DataError(
            f"{path.name} would have over {MAX_TEXTS_BYTES} bytes of texts: build smaller shards of pictures"
        )
    tensors = {
        "means": levels_NCHW,
        "scales": scales_NC,
        "spreads": spreads_NC,
        "texts": torch.frombuffer(bytearray(zlib.compress(lines, 9)), dtype=torch.uint8),
    }
    data = save(tensors, metadata={_FORMAT: str(len(lines))})  # one only: their order is random
    temporary = path.with_suffix(".tmp")
    with storage_errors(path.parent):
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    return ShardEntry(
        name=path.name,
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        num_samples=len(texts),
        width=size[0],
        height=size[1],
    )


def read_latents(path: Path, entry: ShardEntry, space: LatentSpace) -> LatentShard:
    """The shard in `path`. Raises `DataError` that names it.

    The caller has checked its sha256 where it comes from outside; this checks that it is what the format says.
    """
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > _MAX_HEADER_BYTES:
            raise _bad(path, f"its header has {header_bytes} bytes, over the limit of {_MAX_HEADER_BYTES}")
        with safe_open(path, framework="pt") as file:
            return _read(path, file, entry, space)
    except FileNotFoundError:
        raise DataError(f"shard {path} is missing: {_REMEDY}") from None
    except (SafetensorError, OSError) as error:
        raise _bad(path, str(error)) from None


def read_texts(folder: Path, manifest: DataManifest, entry: ShardEntry) -> Sequence[Sample | SampleText]:
    """What the samples of one shard are called, be they pictures or latents. Raises `DataError`."""
    if manifest.latents is None:
        return read_shard(folder / entry.name, entry)
    return read_latents(folder / entry.name, entry, manifest.latents.space).texts


def _read(path: Path, file: Any, entry: ShardEntry, space: LatentSpace) -> LatentShard:
    """The content of an opened safetensors file."""
    width, height = latent_size(entry, space)
    per_channel = [entry.num_samples, space.channels]
    expected = {"means": ("I8", [*per_channel, height, width]), "scales": ("F16", per_channel)}
    expected |= {"spreads": ("F16", per_channel)}
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 -- it is no mapping
    found = {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    kind, shape = found.pop("texts", ("", []))
    if found != expected or kind != "U8" or len(shape) != 1:
        raise _bad(path, f"it has {found} instead of {expected} and texts")
    means, scales, spreads = (file.get_tensor(name).clone() for name in expected)
    for name, values in (("scales", scales), ("spreads", spreads)):
        if not (values.isfinite() & (values >= 0)).all():
            raise _bad(path, f"{name} are not all finite and positive")
    declared = (file.metadata() or {}).get(_FORMAT)
    if declared is None:
        raise _bad(path, f"its metadata have no {_FORMAT!r}")
    packed = file.get_tensor("texts").numpy().tobytes()
    return LatentShard(means, scales, spreads, _texts(path, packed, declared, entry.num_samples))


def _texts(path: Path, packed: bytes, declared: str, num_samples: int) -> list[SampleText]:
    if not (declared.isascii() and declared.isdigit() and len(declared) < 10) or int(declared) > MAX_TEXTS_BYTES:
        raise _bad(path, f"its texts declare {declared[:20]!r} bytes, of at most {MAX_TEXTS_BYTES}")
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(packed, int(declared) + 1)
    except zlib.error as error:
        raise _bad(path, f"its texts do not inflate ({error})") from None
    if len(plain) != int(declared) or not inflater.eof or inflater.unused_data:
        raise _bad(path, f"its texts are not the {declared} bytes that they declare")
    num_lines = plain.count(b"\n") + 1
    if num_lines != num_samples:
        raise _bad(path, f"it has texts of {num_lines} samples instead of {num_samples}")
    texts = [_text(path, line) for line in plain.split(b"\n")]
    if len({text.key for text in texts}) != num_samples:
        raise _bad(path, "two samples have one key")
    return texts


def _text(path: Path, line: bytes) -> SampleText:
    if len(line) > _MAX_LINE_BYTES:
        raise _bad(path, f"a sample has {len(line)} bytes of text, over the limit of {_MAX_LINE_BYTES}")
    try:
        return SampleText.model_validate_json(line)
    except ValidationError as error:
        raise _bad(path, f"a sample's text is none ({first_mistake(error)})") from None


def _bad(path: Path, why: str) -> DataError:
    return DataError(f"{path} is not a shard of latents ({why}): {_REMEDY}")
