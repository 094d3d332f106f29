"""What the operator names to judge by is copied into the run when that is made: it stays the same wherever the run goes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from coordinator.judging.work import sealed
from coordinator.run_folder import RunFolder
from diffusion_at_home.config.run import OWN, JudgingSection
from diffusion_at_home.data.manifest import DataManifest, verify
from diffusion_at_home.errors import ConfigError, DataError
from diffusion_at_home.evaluation.features import load_encoder

_OF_AN_ENCODER: Final = (".json", ".safetensors")


def copy_what_judges(folder: RunFolder, section: JudgingSection) -> dict[str, str]:
    """Copy the data set and the encoder that `section` names; returns sha256 (hex) by path below the run's folder.

    What is the run's own is not copied. Raises `ConfigError`, `DataError`, `StorageError`.
    """
    if section.every_images == 0:
        return {}
    found = dict[str, str]()
    for named, copied, copy in (
        (section.data, folder.pictures, _copy_pictures),
        (section.encoder, folder.encoder, _copy_encoder),
    ):
        if named != OWN:
            copied.mkdir()
            copy(Path(named), copied)
            found |= {f"{copied.name}/{name}": sha256 for name, sha256 in sealed(copied).items()}
    return found


def _copy_pictures(source: Path, target: Path) -> None:
    manifest = DataManifest.load(source)
    if manifest.latents is not None:
        raise ConfigError(f"judging.data = '{source}' holds latents: name the pictures that they were made of")
    verify(source, manifest)
    for entry in (*manifest.train, *manifest.held_out):
        shutil.copyfile(source / entry.name, target / entry.name)
    manifest.save(target)


def _copy_encoder(source: Path, target: Path) -> None:
    wanted = load_encoder(source).sha256
    for file in source.iterdir():
        if file.suffix in _OF_AN_ENCODER and file.is_file():
            shutil.copyfile(file, target / file.name)
    if load_encoder(target).sha256 != wanted:
        raise DataError(f"the encoder {source} changes while it is copied: try again")
