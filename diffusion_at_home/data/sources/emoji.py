"""Noto Color Emoji as a data set: some 1,600 small pictures that need no download, named by Unicode.

The list comes from Unicode's emoji-test.txt (Debian's unicode-data) and not from a Python package: only there are the groups,
and what counts as fully qualified. Each emoji is drawn as it lies in the font, never scaled, and cropped to the square that
holds all of it; the designers' placing and relative sizes stay, so a small square stays small.

Left out unless asked for: skin tones, five near-copies of each hand and person, half of all emoji; flags of places, whose
names share no word with anything else and so teach a small model nothing. What the font cannot draw is refused, each by name.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont, features

from diffusion_at_home.data.combinations import hold_out
from diffusion_at_home.data.sources.source import Raw, Reason, Refused, Source
from diffusion_at_home.errors import DataError

FONT: Final = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
NAMES: Final = Path("/usr/share/unicode/emoji/emoji-test.txt")
"""Where Debian's packages put them."""

SIDE: Final = 128
"""Pixels of the square pictures: the height of the font's bitmaps. 4 columns on either side are empty in all, and go."""

_STRIKE: Final = 109
"""Pixels an em of the one size that the font has."""
_GLYPH_WIDTH: Final = 136
"""Pixels of its bitmaps; more are several glyphs side by side."""
_UNIT_GLYPHS: Final = 100
_NO_CHARACTER: Final = "\U0010ffff"
"""What no font has: it shows how this one draws what is missing."""
_REMEDY: Final = "on Debian and Ubuntu `apt-get install fonts-noto-color-emoji unicode-data libfribidi0` installs it"
_LINE: Final = re.compile(r"([0-9A-F ]+?) *; fully-qualified +# \S+ E[0-9.]+ (.+)")
_SKIN_TONES: Final = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
_FLAGS_OF_PLACES: Final = ("country-flag", "subdivision-flag")
_QUOTES: Final = str.maketrans("‘’“”", "''\"\"")


@dataclass(frozen=True, slots=True)
class Emoji:
    """One fully qualified emoji of Unicode's list."""

    text: str
    """One or more code points."""
    name: str
    """Of Unicode's common locale data, with the quotes that keyboards have."""
    group: str
    subgroup: str

    @property
    def code_points(self) -> str:
        """Such as 1F468-200D-1F4BB."""
        return "-".join(f"{ord(character):04X}" for character in self.text)

    @property
    def captions(self) -> tuple[str, str]:
        """The name; and the name with what it is one of: "red heart, heart, smileys and emotion".

        Names alone leave many words without a second picture; the groups tie them to their like.
        """
        return self.name, f"{self.name}, {_plain(self.subgroup)}, {_plain(self.group)}"


class EmojiSource(Source):
    """The emoji of one font, in Unicode's order."""

    name = "emoji"
    license = "OFL-1.1"

    def __init__(
        self,
        *,
        font: Path = FONT,
        names: Path = NAMES,
        skin_tones: bool = False,
        flags: bool = False,
        held_out_one_in: int = 4,
    ) -> None:
        """Read the list.

        Args:
            font: Noto Color Emoji with bitmaps (CBDT).
            names: Unicode's emoji-test.txt.
            skin_tones: also the five variants of hands and people.
            flags: also those of countries and regions.
            held_out_one_in: of the names with a word, at most one in so many is held out, all of them new combinations of
                words. At least 2; 0 leaves holding out to the build.

        Raises:
            DataError: something is missing; the sentence says how to install it.
        """
        if not features.check("raqm"):
            raise DataError(f"Pillow cannot join emoji without the library FriBiDi: {_REMEDY}")
        version, emoji = read_names(names)
        self.description = (
            f"Noto Color Emoji {_revision(font)} (Google, https://github.com/googlefonts/noto-emoji), "
            f"with the names of Unicode Emoji {version} (https://www.unicode.org/Public/emoji/)"
        )
        self._font = font
        self._emoji = tuple(
            one
            for one in emoji
            if (skin_tones or _SKIN_TONES.isdisjoint(one.text)) and (flags or one.subgroup not in _FLAGS_OF_PLACES)
        )
        self._hold_out = held_out_one_in > 0
        names_in_order = [one.name for one in self._emoji]
        self._held_out = hold_out(names_in_order, held_out_one_in) if self._hold_out else frozenset[int]()

    def units(self) -> Sequence[str]:
        """A hundred emoji each, named by the first and the one behind the last."""
        count = len(self._emoji)
        return tuple(f"{start}-{min(start + _UNIT_GLYPHS, count)}" for start in range(0, count, _UNIT_GLYPHS))

    def read(self, unit: str) -> Iterator[Raw | Refused]:
        """Lossless PNGs, RGB on white, `SIDE` pixels square."""
        start, _, stop = unit.partition("-")
        font = _open(self._font)
        missing = _cell(font, _NO_CHARACTER)
        for index in range(int(start), int(stop)):
            one = self._emoji[index]
            cell = _cell(font, one.text)
            if isinstance(cell, str):
                yield Refused(one.code_points, Reason.BLANK, f"{one.name}: {cell}")
            elif not isinstance(missing, str) and cell.tobytes() == missing.tobytes():
                yield Refused(
                    one.code_points, Reason.BLANK, f"{one.name}: the font has only its sign for what is missing"
                )
            else:
                yield Raw(
                    name=one.code_points,
                    image=_png(_on_white(cell)),
                    captions=one.captions,
                    source=f"Noto Color Emoji, U+{one.code_points.replace('-', ' U+')}",
                    license=self.license,
                    author="Google",
                    held_out=index in self._held_out if self._hold_out else None,
                )

    def held_out_captions(self) -> tuple[str, ...]:
        """The names of all that are held out, in order."""
        return tuple(self._emoji[index].name for index in sorted(self._held_out))


def read_names(path: Path) -> tuple[str, tuple[Emoji, ...]]:
    """The version, and every fully qualified emoji in order, of an emoji-test.txt. Raises `DataError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"the names of emoji are missing ({path}): {_REMEDY}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error})") from None
    version, group, subgroup, found = "", "", "", list[Emoji]()
    for line in text.splitlines():
        key, _, value = line.removeprefix("# ").partition(": ")
        if match := _LINE.fullmatch(line):
            characters = "".join(chr(int(point, 16)) for point in match[1].split())
            found.append(Emoji(characters, match[2].translate(_QUOTES), group, subgroup))
        elif key == "Version":
            version = value
        elif key == "group":
            group = value
        elif key == "subgroup":
            subgroup = value
    if not found:
        raise DataError(f"{path} names no emoji: it should be Unicode's emoji-test.txt")
    return version, tuple(found)


def _plain(group: str) -> str:
    return group.replace("&", "and").replace("-", " ").lower()


def _revision(font: Path) -> str:
    """Of a TrueType font, as its table `head` has it (OpenType specification, "head": fontRevision, 16.16 fixed)."""
    try:
        with font.open("rb") as file:
            (num_tables,) = struct.unpack(">4xH6x", file.read(12))
            for _ in range(num_tables):
                tag, offset = struct.unpack(">4s4xI4x", file.read(16))
                if tag == b"head":
                    file.seek(offset + 4)
                    return f"{struct.unpack('>i', file.read(4))[0] / 2**16:.3f}"
    except FileNotFoundError:
        raise DataError(f"the font Noto Color Emoji is missing ({font}): {_REMEDY}") from None
    except (OSError, struct.error):
        pass
    raise DataError(f"{font} is no TrueType font")


def _open(font: Path) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(font, _STRIKE, layout_engine=ImageFont.Layout.RAQM)
    except OSError as error:
        raise DataError(f"{font} is no emoji font with bitmaps of {_STRIKE} pixels ({error})") from None


def _cell(font: ImageFont.FreeTypeFont, text: str) -> Image.Image | str:
    """The glyph's own bitmap, RGBA on transparent, or why there is none."""
    left, top, right, bottom = font.getbbox(text)
    if right - left > _GLYPH_WIDTH:
        return "the font has several glyphs for it"
    if right == left or bottom == top:
        return "the font has no glyph for it"
    cell = Image.new("RGBA", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(cell).text((-left, -top), text, font=font, embedded_color=True)
    return cell if cell.getchannel("A").getbbox() else "its glyph is empty"


def _on_white(cell: Image.Image) -> Image.Image:
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    picture.paste(cell, ((SIDE - cell.width) // 2, (SIDE - cell.height) // 2), mask=cell)
    return picture


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
