"""Which source a person means: a name, a path, or `kind:path`; and the settings that its kind begins with."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.data.build_settings import BuildSettings
from diffusion_at_home.data.picture import PictureFormat
from diffusion_at_home.data.sources.folder import FolderSource, holds_pictures
from diffusion_at_home.data.sources.source import Source
from diffusion_at_home.errors import ConfigError


class DigitsSettings(BuildSettings):
    """8 x 8 pixels, exact, all of them kept, in the order of the source, which is mixed already."""

    base: int = 8
    step: int = 8
    square: bool = True
    format: PictureFormat = PictureFormat.PNG
    duplicate_bits: int = -1
    shard_samples: int = 125
    mixed_shards: int = 1


class EmojiSettings(BuildSettings):
    """Small exact squares; clocks and hands are nearly the same by intention."""

    base: int = 64
    step: int = 8
    square: bool = True
    format: PictureFormat = PictureFormat.PNG
    duplicate_bits: int = -1
    shard_samples: int = 125
    skin_tones: bool = False
    """Whether the five variants of hands and people are taken too."""
    flags: bool = False
    """Whether those of countries and regions are taken too."""


class ParquetSettings(BuildSettings):
    """For columns whose names nobody would guess."""

    image_column: str = ""
    """Column of pictures; empty finds it by type and name."""
    caption_columns: tuple[str, ...] = ()
    """Columns of captions, the main one first; empty finds them by name."""


# What is not asked for is not loaded: some sources need a library that is not everywhere.


def _digits(settings: BuildSettings) -> Source:  # noqa: ARG001 -- as the others
    from diffusion_at_home.data.sources.digits import DigitsSource  # noqa: PLC0415

    return DigitsSource()


def _emoji(settings: BuildSettings) -> Source:
    from diffusion_at_home.data.sources.emoji import EmojiSource  # noqa: PLC0415

    assert isinstance(settings, EmojiSettings)
    return EmojiSource(skin_tones=settings.skin_tones, flags=settings.flags)


def _folder(path: Path, settings: BuildSettings) -> Source:  # noqa: ARG001 -- as the others
    return FolderSource(path)


def _webdataset(path: Path, settings: BuildSettings) -> Source:  # noqa: ARG001 -- as the others
    from diffusion_at_home.data.sources.webdataset import WebDatasetSource  # noqa: PLC0415

    return WebDatasetSource(path)


def _parquet(path: Path, settings: BuildSettings) -> Source:
    from diffusion_at_home.data.sources.parquet import ParquetSource  # noqa: PLC0415

    assert isinstance(settings, ParquetSettings)
    return ParquetSource(path, image_column=settings.image_column, caption_columns=settings.caption_columns)


@dataclass(frozen=True, slots=True)
class _Named:
    """A source that needs no path."""

    make: Callable[[BuildSettings], Source]
    settings: type[BuildSettings]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Of what lies at a path."""

    make: Callable[[Path, BuildSettings], Source]
    settings: type[BuildSettings]


NAMED: Final = {"digits": _Named(_digits, DigitsSettings), "emoji": _Named(_emoji, EmojiSettings)}
KINDS: Final = {
    "folder": _Kind(_folder, BuildSettings),
    "webdataset": _Kind(_webdataset, BuildSettings),
    "parquet": _Kind(_parquet, ParquetSettings),
}


def choose(source: str, config: Path | None, overrides: Sequence[str]) -> tuple[Source, BuildSettings]:
    """The source that `source` names, and its settings.

    Raises:
        ConfigError: there is none, or a setting is wrong.
        DataError: a folder of it cannot be read.
    """
    if source in NAMED:
        named = NAMED[source]
        settings = load_toml(config, named.settings, overrides)
        return named.make(settings), settings
    kind, colon, place = source.partition(":")
    if not colon or kind not in KINDS:
        kind, place = _detected(source), source
    elif not Path(place).exists():
        raise ConfigError(f"{place} does not exist: name a file or folder")
    settings = load_toml(config, KINDS[kind].settings, overrides)
    return KINDS[kind].make(Path(place), settings), settings


def _detected(place: str) -> str:
    """The kind of what lies at `place`. Raises `ConfigError`, `DataError`."""
    path = Path(place)
    if not path.exists():
        raise ConfigError(_unknown(place))
    for kind, suffix in (("webdataset", ".tar"), ("parquet", ".parquet")):
        if path.suffix == suffix or (path.is_dir() and next(path.rglob(f"*{suffix}"), None)):
            return kind
    if path.is_dir() and holds_pictures(path):
        return "folder"
    raise ConfigError(
        f"{path} holds neither pictures nor .tar or .parquet files: name a folder with those, or say what it is, "
        "as in folder:PATH, webdataset:PATH or parquet:PATH"
    )


def _unknown(place: str) -> str:
    if "/" in place:
        return f"{place} does not exist: name a file or folder, or one of {', '.join(NAMED)}"
    nearest = difflib.get_close_matches(place, NAMED, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"name a file or folder, or one of {', '.join(NAMED)}"
    return f"there is no data source {place!r}; {hint}"
