"""Builds a data set: samples of a named source into shards and a manifest. The same source gives the same bytes."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from diffusion_at_home.data import digits
from diffusion_at_home.data.manifest import MANIFEST_NAME, DataManifest, ShardEntry, verify
from diffusion_at_home.data.shards import Sample, write_shard
from diffusion_at_home.errors import ConfigError, DataError, storage_errors


@dataclass(frozen=True, slots=True)
class Source:
    """Where samples come from."""

    samples: Callable[..., Iterable[Sample]]
    """Called with held_out=False, then with held_out=True."""
    description: str
    license: str
    side: int
    """Pixels of the square pictures."""
    shard_samples: int
    """Samples a shard."""


SOURCES: Final[dict[str, Source]] = {
    "digits": Source(digits.digit_samples, digits.SOURCE, digits.LICENSE, digits.SIDE, shard_samples=125),
}


_UNFINISHED: Final = re.compile(r"(train|held-out)-\d{5}\.(tar|tmp)|manifest\.tmp")
"""What a build that was broken off may have left."""


def build(source: str, out: Path) -> DataManifest:
    """Make the data set `source` in `out`; a complete one that is there already is checked and left alone.

    Raises:
        ConfigError: no such source, or `out` holds something else.
        DataError: the source cannot be read, or what is there is damaged: delete it first.
        StorageError: the disk is full.
    """
    if source not in SOURCES:
        nearest = difflib.get_close_matches(source, SOURCES, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known sources are {', '.join(SOURCES)}"
        raise ConfigError(f"there is no data source {source!r}; {hint}")
    if (out / MANIFEST_NAME).is_file():
        return _existing(source, out)
    if out.is_dir() and not all(_UNFINISHED.fullmatch(path.name) for path in out.iterdir()):
        raise ConfigError(f"{out} holds something else than a data set: choose a new folder")
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    kind = SOURCES[source]
    manifest = DataManifest(
        name=source,
        source=kind.description,
        license=kind.license,
        train=_write(out, "train", kind, held_out=False),
        held_out=_write(out, "held-out", kind, held_out=True),
    )
    manifest.save(out)
    return manifest


def _existing(source: str, out: Path) -> DataManifest:
    try:
        manifest = DataManifest.load(out)
        if manifest.name != source:
            raise ConfigError(f"{out} holds the data set {manifest.name!r}: choose a new folder for {source!r}")
        verify(out, manifest)
    except DataError as error:
        raise DataError(f"{str(error).rpartition(': ')[0]}: delete {out} and build it again") from None
    return manifest


def _write(out: Path, split: str, kind: Source, *, held_out: bool) -> tuple[ShardEntry, ...]:
    stream, entries = iter(kind.samples(held_out=held_out)), list[ShardEntry]()
    while batch := tuple(itertools.islice(stream, kind.shard_samples)):
        entries.append(write_shard(out / f"{split}-{len(entries):05d}.tar", batch, (kind.side, kind.side)))
    return tuple(entries)
