"""What a run drew for the same prompts and seeds, from its first checkpoint to its last, as one moving picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from diffusion_at_home.errors import ConfigError, storage_errors

FORMATS: Final = {".webp": "WEBP", ".gif": "GIF", ".png": "PNG", ".apng": "PNG"}
_TEXT: Final = 20
_LAST_LONGER: Final = 4
"""The last frame stays so many times as long as the others."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One moment."""

    images: int
    """Trained until then."""
    picture: Image.Image


def animate(frames: Sequence[Frame], path: Path, frame_time: timedelta = timedelta(seconds=0.8)) -> None:
    """Write `frames`, by images, into `path`, whose suffix names the format; smaller pictures are centred on white.

    Raises:
        ConfigError: no frame, or a suffix that is none of `FORMATS`.
        StorageError: `path` is not writable.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path} must end in one of {', '.join(FORMATS)}")
    if not frames:
        raise ConfigError(f"there is no picture to make {path} of: evaluate a checkpoint first")
    size = (max(f.picture.width for f in frames), max(f.picture.height for f in frames))
    pages = [_page(frame, size) for frame in sorted(frames, key=lambda frame: frame.images)]
    milliseconds = round(frame_time.total_seconds() * 1000)
    durations = [milliseconds] * (len(pages) - 1) + [_LAST_LONGER * milliseconds]
    options = {"quality": 85} if FORMATS[path.suffix.lower()] == "WEBP" else {}
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        pages[0].save(
            path,
            format=FORMATS[path.suffix.lower()],
            save_all=True,
            append_images=pages[1:],
            duration=durations,
            loop=0,
            **options,
        )


def _page(frame: Frame, size: tuple[int, int]) -> Image.Image:
    page = Image.new("RGB", (size[0], size[1] + _TEXT), "white")
    page.paste(frame.picture, ((size[0] - frame.picture.width) // 2, _TEXT + (size[1] - frame.picture.height) // 2))
    text = f"{frame.images:,} images"
    ImageDraw.Draw(page).text((6, 3), text, fill="black", font=ImageFont.load_default(size=13))
    return page
