"""A data set as people look at it: figures, and a contact sheet."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from diffusion_at_home.data.manifest import DataManifest, ShardEntry, Size, verify
from diffusion_at_home.data.shards import Sample, decode_image, open_image, read_shard
from diffusion_at_home.errors import ConfigError, DataError, storage_errors

_CELL: Final = 120
_TEXT: Final = 16
_GAP: Final = 8


@dataclass(frozen=True, slots=True)
class DataSummary:
    """A verified data set in figures."""

    name: str
    digest: str
    source: str
    licenses: dict[str, int]
    """Samples of each licence."""
    sizes: dict[str, int]
    """Samples of each bucket, as in "8x8"."""
    train_images: int
    train_shards: int
    held_out_images: int
    held_out_shards: int
    size_bytes: int
    bytes_per_image: float
    captions: int
    """Different ones."""
    example_captions: tuple[str, ...]


def summarize(folder: Path) -> DataSummary:
    """Check every shard in `folder` and count. Raises `DataError`."""
    from diffusion_at_home.data.latents import read_texts  # noqa: PLC0415 -- pictures need no torch

    manifest = DataManifest.load(folder)
    verify(folder, manifest)
    licenses, captions, sizes = Counter[str](), Counter[str](), Counter[str]()
    for entry in (*manifest.train, *manifest.held_out):
        sizes[f"{entry.width}x{entry.height}"] += entry.num_samples
        for sample in read_texts(folder, manifest, entry) if manifest.latents else read_pictures(folder, entry):
            licenses[sample.license] += 1
            captions[sample.caption] += 1
    size_bytes = sum(entry.size_bytes for entry in (*manifest.train, *manifest.held_out))
    return DataSummary(
        name=manifest.name,
        digest=manifest.digest,
        source=manifest.source,
        licenses=dict(licenses),
        sizes=dict(sizes.most_common()),
        train_images=manifest.num_train_images,
        train_shards=len(manifest.train),
        held_out_images=sum(entry.num_samples for entry in manifest.held_out),
        held_out_shards=len(manifest.held_out),
        size_bytes=size_bytes,
        bytes_per_image=size_bytes / licenses.total(),
        captions=len(captions),
        example_captions=tuple(caption for caption, _ in captions.most_common(3)),
    )


def contact_sheet(folder: Path, path: Path, *, columns: int = 8, rows: int = 5) -> int:
    """Draw pictures of every size in `folder` with their captions into the PNG `path`; returns how many.

    Raises `ConfigError` if it holds latents, `DataError`, `StorageError`.
    """
    manifest = DataManifest.load(folder)
    if manifest.latents:
        raise ConfigError(f"{folder} holds latents: draw the sheet of the pictures that they were made of")
    samples = _first_of_each_size(folder, manifest, columns * rows)
    used_rows = -(-len(samples) // columns)
    pitch = (_CELL + _GAP, _CELL + _TEXT + _GAP)
    sheet = Image.new("RGB", (columns * pitch[0] + _GAP, used_rows * pitch[1] + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for index, (sample, size) in enumerate(samples):
        row, column = divmod(index, columns)
        place = (_GAP + column * pitch[0], _GAP + row * pitch[1])
        sheet.paste(_thumbnail(sample, size), place)
        draw.text((place[0], place[1] + _CELL + 2), _fitted(sample.caption, font), fill="black", font=font)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, format="PNG")
    return len(samples)


def read_pictures(folder: Path, entry: ShardEntry) -> list[Sample]:
    """The samples of one shard, all of them pictures of its size. Raises `DataError`."""
    samples = read_shard(folder / entry.name, entry)
    for sample in samples:
        try:
            open_image(sample, entry.size).close()
        except DataError as error:
            raise DataError(f"{folder / entry.name}: {error}") from None
    return samples


def _first_of_each_size(folder: Path, manifest: DataManifest, count: int) -> list[tuple[Sample, Size]]:
    """At most `count` pictures, as many of each size, if there are so many."""
    sizes = dict.fromkeys(entry.size for entry in manifest.train)
    found: dict[Size, list[Sample]] = {size: [] for size in sizes}
    share = -(-count // len(sizes))
    for entry in manifest.train:
        if len(found[entry.size]) < share:
            found[entry.size] += read_pictures(folder, entry)
    return [(sample, size) for size in sizes for sample in found[size][:share]][:count]


def _thumbnail(sample: Sample, size: Size) -> Image.Image:
    rgb = decode_image(sample, size, "RGB")
    scale = _CELL / max(size)
    shown = (max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale)))
    return rgb.resize(shown, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _fitted(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    if font.getlength(text) <= _CELL:
        return text
    while text and font.getlength(text + "...") > _CELL:
        text = text[:-1]
    return text + "..."
