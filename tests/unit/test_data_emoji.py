"""Emoji are drawn whole, named as Unicode names them, and what the font lacks is counted."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pytest
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont, features

from diffusion_at_home.data.combinations import new_combinations
from diffusion_at_home.data.sources.emoji import FONT, NAMES, SIDE, EmojiSource, read_names
from diffusion_at_home.data.sources.source import Raw, Reason, Refused
from diffusion_at_home.errors import DataError

TEXT_FONT = Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf"


@pytest.fixture(scope="module")
def source() -> EmojiSource:
    return EmojiSource()


def drawn(source: EmojiSource, *units: str) -> dict[str, Raw]:
    found: dict[str, Raw] = {}
    for unit in units:
        for raw in source.read(unit):
            assert isinstance(raw, Raw)
            found[raw.captions[0]] = raw
    return found


@pytest.fixture(scope="module")
def some(source: EmojiSource) -> dict[str, Raw]:
    """A quarter of all."""
    return drawn(source, *source.units()[::4])


def picture(raw: Raw) -> Image.Image:
    return Image.open(io.BytesIO(raw.image))


def listed(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "emoji-test.txt"
    path.write_text("# Version: 99.0\n# group: Smileys & Emotion\n# subgroup: face-smiling\n" + "\n".join(lines) + "\n")
    return path


def test_there_are_enough_and_every_unit_is_a_hundred(source: EmojiSource) -> None:
    units = source.units()
    assert units[0] == "0-100"
    assert 1400 <= int(units[-1].partition("-")[2]) <= 2500
    assert len(set(units)) == len(units)


def test_all_are_squares_of_rgb_that_say_where_they_come_from(some: dict[str, Raw]) -> None:
    for raw in some.values():
        image = picture(raw)
        assert (image.size, image.mode, image.format) == ((SIDE, SIDE), "RGB", "PNG")
        assert raw.license == "OFL-1.1"
        assert raw.name.replace("-", " U+") in raw.source
    assert len({raw.name for raw in some.values()}) == len(some) == len({raw.image for raw in some.values()})


def test_captions_are_the_name_and_the_name_with_its_groups(some: dict[str, Raw]) -> None:
    face = some["grinning face"]
    assert face.captions == ("grinning face", "grinning face, face smiling, smileys and emotion")
    assert face.name == "1F600"
    assert all(caption.isprintable() and "’" not in caption for raw in some.values() for caption in raw.captions)


def test_a_face_is_yellow_on_white(some: dict[str, Raw]) -> None:
    image = picture(some["grinning face"])
    assert image.getpixel((0, 0)) == image.getpixel((SIDE - 1, SIDE - 1)) == (255, 255, 255)
    red, green, blue = image.resize((1, 1), box=(56, 20, 72, 30)).getpixel((0, 0))  # type: ignore[misc]
    assert red > 230
    assert green > 180
    assert blue < 120


def test_a_small_square_stays_small(source: EmojiSource) -> None:
    count = int(source.units()[-1].partition("-")[2])
    shapes = drawn(source, f"{count - 40}-{count}")
    ink = {name: picture(shapes[name]).convert("L").point(lambda level: 255 * (level < 250)) for name in shapes}
    large, small = (ink[f"black {size} square"].getbbox() for size in ("large", "small"))
    assert large is not None
    assert small is not None
    assert large[2] - large[0] > 2 * (small[2] - small[0])


def test_nothing_is_cut_off() -> None:
    font = ImageFont.truetype(FONT, 109, layout_engine=ImageFont.Layout.RAQM)
    margin = (136 - SIDE) // 2
    for one in read_names(NAMES)[1][::3]:
        cell = Image.new("RGBA", (136, 140))
        ImageDraw.Draw(cell).text((0, 0), one.text, font=font, embedded_color=True)
        box = cell.getchannel("A").getbbox()
        assert box is not None, one
        assert box[0] >= margin, one
        assert box[2] <= 136 - margin, one
        assert box[3] <= SIDE, one


def test_the_same_unit_is_the_same_bytes_in_any_process(source: EmojiSource) -> None:
    again = pickle.loads(pickle.dumps(source))
    assert list(again.read("1600-1609")) == list(source.read("1600-1609"))


def test_skin_tones_and_flags_of_places_come_when_asked_for(source: EmojiSource) -> None:
    def count(one: EmojiSource) -> int:
        return int(one.units()[-1].partition("-")[2])

    everything = EmojiSource(skin_tones=True, flags=True)
    assert count(everything) == len(read_names(NAMES)[1])
    assert count(source) < count(EmojiSource(flags=True)) < count(EmojiSource(skin_tones=True)) < count(everything)
    flags = [raw for raw in everything.read(f"{count(everything) - 5}-{count(everything)}") if isinstance(raw, Raw)]
    assert flags[-1].captions[0] == "flag: Wales"


def test_what_is_held_out_is_a_new_combination_of_trained_words(source: EmojiSource, some: dict[str, Raw]) -> None:
    held_out = source.held_out_captions()
    assert 40 <= len(held_out) <= 120
    assert {name for name, raw in some.items() if raw.held_out} == set(held_out) & set(some)
    names = [one.name for one in read_names(NAMES)[1]]
    trained = [name for name in names if name not in held_out and "skin tone" not in name and "flag: " not in name]
    assert new_combinations(held_out, trained) == held_out


def test_the_build_decides_what_is_held_out_where_the_source_does_not() -> None:
    source = EmojiSource(held_out_one_in=0)
    assert source.held_out_captions() == ()
    assert {raw.held_out for raw in source.read("0-10") if isinstance(raw, Raw)} == {None}


def test_what_the_font_cannot_draw_is_refused_by_name(tmp_path: Path) -> None:
    names = listed(
        tmp_path,
        "1F600 ; fully-qualified # 😀 E1.0 grinning face",
        "1FAFF ; fully-qualified # x E99.0 future face",
        "1F600 200D 1F34E ; fully-qualified # x E99.0 apple face",
        "1F601 ; unqualified # x E1.0 not in the list",
        "1F62C ; component # x E1.0 neither",
        "garbage ; fully-qualified",
    )
    first, *rest = EmojiSource(names=names).read("0-3")
    assert isinstance(first, Raw)
    assert [type(item) for item in rest] == [Refused, Refused]
    assert [(item.name, item.reason) for item in rest] == [("1FAFF", Reason.BLANK), ("1F600-200D-1F34E", Reason.BLANK)]
    assert [item.detail for item in rest if isinstance(item, Refused)] == [
        "future face: the font has no glyph for it",
        "apple face: the font has several glyphs for it",
    ]


def test_a_sign_for_what_is_missing_is_no_picture(tmp_path: Path) -> None:
    names = listed(tmp_path, "1F35F ; fully-qualified # x E1.0 french fries")
    (only,) = EmojiSource(names=names, font=TEXT_FONT).read("0-1")
    assert isinstance(only, Refused)
    assert "only its sign for what is missing" in only.detail


@pytest.mark.parametrize("missing", ["font", "names"])
def test_what_is_not_installed_is_said_with_the_command_that_installs_it(tmp_path: Path, missing: str) -> None:
    with pytest.raises(DataError, match=r"nowhere.*apt-get install fonts-noto-color-emoji unicode-data"):
        EmojiSource(**{missing: tmp_path / "nowhere"})  # type: ignore[arg-type]


def test_garbage_is_no_font_and_no_list(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\xff\x00garbage" * 100)
    with pytest.raises(DataError, match="garbage is no TrueType font"):
        EmojiSource(font=garbage)
    with pytest.raises(DataError, match="garbage cannot be read"):
        EmojiSource(names=garbage)
    with pytest.raises(DataError, match="names no emoji"):
        EmojiSource(names=TEXT_FONT.parent.parent.parent / "matplotlibrc")


def test_half_a_font_is_said_to_be_none(tmp_path: Path) -> None:
    half = tmp_path / "half.ttf"
    half.write_bytes(FONT.read_bytes()[:4000])
    with pytest.raises(DataError, match=r"half\.ttf is no"):
        list(EmojiSource(font=half).read("0-1"))


def test_without_the_library_that_joins_emoji_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda _: False)  # Pillow's
    with pytest.raises(DataError, match=r"FriBiDi.*apt-get install .*libfribidi0"):
        EmojiSource()
