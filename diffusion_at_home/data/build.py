"""Builds a data set: pictures of a source into shards and a manifest, in three stages: read, assemble, seal.

The same source and settings give the same bytes, whatever the number of processes and however often the build was killed. The
manifest is the last file of a data set; until it is there, the same build goes on where it was, and no other one does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from diffusion_at_home.data.assemble import Assembler
from diffusion_at_home.data.build_folder import BuildFolder, Identity
from diffusion_at_home.data.build_settings import BuildSettings
from diffusion_at_home.data.duplicates import DuplicateIndex
from diffusion_at_home.data.manifest import DataManifest, verify
from diffusion_at_home.data.reading import Reader, read_parts
from diffusion_at_home.data.report_page import save_page
from diffusion_at_home.data.sources.choose import choose
from diffusion_at_home.data.sources.source import Source
from diffusion_at_home.errors import DataError


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build has come."""

    units: int
    """Of `num_units` of the source, assembled."""
    num_units: int
    kept: int
    """Pictures that go into shards."""
    refused: int
    """Pictures that do not."""


Show = Callable[[Progress], None]
"""Told whenever a unit is done."""


def build(
    source: str,
    out: Path,
    *,
    config: Path | None = None,
    overrides: Sequence[str] = (),
    show: Show = lambda _: None,
) -> DataManifest:
    """Make the data set of `source` in `out`; a complete one that is there already is checked and left alone.

    Args:
        source: a name, a path, or `kind:path`; see `diffusion_at_home.data.sources.choose`.
        out: a new folder, or one in which the same build was broken off.
        config: TOML file of `BuildSettings`.
        overrides: further settings, as `key=value`.
        show: told whenever a unit is done.

    Raises:
        ConfigError: no such source, a setting is wrong, or `out` holds something else.
        DataError: the source cannot be read, or what is there is damaged: delete it first.
        StorageError: the disk is full.
        HardwareError: a process that read pictures died; what it had read before stays.
    """
    chosen, settings = choose(source, config, overrides)
    folder = BuildFolder(out)
    reader = _reader(chosen, settings, folder)
    units = chosen.units()
    identity = Identity.of(settings.name or chosen.name, chosen.description, units, settings)
    if folder.is_complete:
        manifest = _checked(folder, identity)
    else:
        with folder.locked():
            folder.begin(identity)
            manifest = _made(reader, units, settings, folder, show)
    folder.forget_parts()
    return manifest


def _reader(source: Source, settings: BuildSettings, folder: BuildFolder) -> Reader:
    return Reader(
        source=source,
        rules=settings.picture_rules(),
        screens=settings.screens(),
        folder=folder.parts,
        license=settings.license,
        origin=settings.source or source.description,
        author=settings.author,
    )


def _checked(folder: BuildFolder, identity: Identity) -> DataManifest:
    try:
        manifest = folder.check(identity)
        verify(folder.root, manifest)
    except DataError as error:
        raise DataError(f"{str(error).rpartition(': ')[0]}: delete {folder.root} and build it again") from None
    return manifest


def _made(
    reader: Reader, units: Sequence[str], settings: BuildSettings, folder: BuildFolder, show: Show
) -> DataManifest:
    source = reader.source
    assembler = Assembler(
        folder.root,
        folder.parts,
        held_out_share=settings.held_out_share,
        duplicates=DuplicateIndex(settings.duplicate_bits),
        shard_samples=settings.shard_samples,
        shard_bytes=settings.shard_mib * 2**20,
        mixed_shards=settings.mixed_shards,
    )
    parts = read_parts(reader, units, settings.processes or os.cpu_count() or 1)
    with assembler, closing(parts):
        for number, part in enumerate(parts, start=1):
            assembler.add(part)
            show(Progress(number, len(units), assembler.tally.num_kept, assembler.tally.num_refused))
        train, held_out = assembler.finish()
        report = assembler.tally.report()
        report.save(folder.root)
        if not train:
            raise DataError(f"no picture of {source.description} can be used: {folder.root / 'report.json'} says why")
        manifest = DataManifest(
            name=settings.name or source.name,
            source=source.description[:2000],
            license=assembler.tally.license[:200],
            channels=settings.channels,
            train=train,
            held_out=held_out,
        )
        save_page(folder.root, manifest, report, assembler.shown())
    manifest.save(folder.root)
    return manifest
