"""Drawn pictures as people look at them: beside the nearest and the right real one, or on their own as a grid.

Pictures are uint8 (3, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffusion_at_home.errors import storage_errors

_CELL: Final = 80
_GAP: Final = 4
_TEXT: Final = 15
_MARGIN: Final = 10
_RIGHT: Final = "#2a9d3a"
_WRONG: Final = "#c03a2b"


@dataclass(frozen=True, slots=True)
class Row:
    """One question and its answer."""

    prompt: str
    pictures: tuple[Tensor, ...]
    """Drawn, the nearest real one, and one of that caption."""
    right: bool
    """Whether the nearest real one has that caption."""


def answer_sheet(rows: Sequence[Row], columns: int = 4) -> Image.Image:
    """Each prompt with its pictures, framed in green where the nearest is right, in red where it is not."""
    width = len(rows[0].pictures) * (_CELL + _GAP) + 2 * _MARGIN
    height = _CELL + _TEXT + _MARGIN
    lines = -(-len(rows) // columns)
    sheet = Image.new("RGB", (min(columns, len(rows)) * width, lines * height + _TEXT + _MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    draw.text((_MARGIN, 4), "drawn | nearest real picture | a real picture of the caption", fill="black", font=font)
    for index, row in enumerate(rows):
        line, column = divmod(index, columns)
        left, top = column * width + _MARGIN, line * height + _TEXT + _MARGIN
        for place, picture in enumerate(row.pictures):
            sheet.paste(_cell(picture), (left + place * (_CELL + _GAP), top))
        frame = (left + _CELL + _GAP - 2, top - 2, left + 2 * _CELL + _GAP + 1, top + _CELL + 1)
        draw.rectangle(frame, outline=_RIGHT if row.right else _WRONG, width=2)
        draw.text((left, top + _CELL + 1), fitted(row.prompt, width - 2 * _MARGIN, font), fill="black", font=font)
    return sheet


def grid(pictures: Sequence[Tensor], columns: int = 10) -> Image.Image:
    """Pictures alone, in rows."""
    lines = -(-len(pictures) // columns)
    pitch = _CELL + _GAP
    sheet = Image.new("RGB", (min(columns, len(pictures)) * pitch + _GAP, lines * pitch + _GAP), "white")
    for index, picture in enumerate(pictures):
        line, column = divmod(index, columns)
        sheet.paste(_cell(picture), (_GAP + column * pitch, _GAP + line * pitch))
    return sheet


def save_picture(picture: Image.Image, path: Path) -> None:
    """As a PNG. Raises `StorageError`."""
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, format="PNG")


def fitted(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """`text`, cut to `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _cell(picture_3HW: Tensor) -> Image.Image:
    image = Image.fromarray(picture_3HW.permute(1, 2, 0).contiguous().numpy())
    scale = _CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
