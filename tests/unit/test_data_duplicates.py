"""Near pictures are found exactly, and what only looks empty is not taken for the same."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance

from diffusion_at_home.data.duplicates import HASH_BYTES, DuplicateIndex, PictureHash, picture_hash
from diffusion_at_home.errors import ConfigError
from tests.unit.odd_pictures import file_of, noise, smooth


def distance(one: PictureHash, other: PictureHash) -> int:
    return (int.from_bytes(one[:8]) ^ int.from_bytes(other[:8])).bit_count()


def colour_difference(one: PictureHash, other: PictureHash) -> int:
    return max(abs(a - b) for a, b in zip(one[8:], other[8:], strict=True))


def naive_answers(hashes: Sequence[PictureHash], max_distance: int, max_colour_difference: int) -> list[bool]:
    kept, answers = list[PictureHash](), list[bool]()
    for one in hashes:
        answers.append(
            any(
                distance(one, other) <= max_distance and colour_difference(one, other) <= max_colour_difference
                for other in kept
            )
        )
        if not answers[-1]:
            kept.append(one)
    return answers


def near_hashes(seed: int, count: int) -> list[PictureHash]:
    """Around a few centres, from 0 to 12 bits and 0 to 12 levels away: all near to the limits."""
    random = np.random.default_rng(seed)
    structures = random.integers(0, 2**64, 4, dtype=np.uint64)
    hashes = []
    for _ in range(count):
        structure = int(random.choice(structures))
        for bit in random.choice(64, random.integers(0, 13), replace=False).tolist():
            structure ^= 1 << bit
        colour = (100 + random.integers(0, 13, 12) * random.integers(0, 2)).astype(np.uint8)
        hashes.append(PictureHash(structure.to_bytes(8, "big") + colour.tobytes()))
    return hashes


@pytest.mark.parametrize("max_distance", [0, 1, 2, 4, 7, 16])
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), max_colour_difference=st.integers(0, 13))
def test_the_index_answers_as_comparing_with_all_would(
    max_distance: int, seed: int, max_colour_difference: int
) -> None:
    hashes = near_hashes(seed, 60)
    index = DuplicateIndex(max_distance, max_colour_difference)
    answers = [index.seen_before(one) for one in hashes]
    assert answers == naive_answers(hashes, max_distance, max_colour_difference)
    assert len(index) == answers.count(False)


def test_below_zero_nothing_is_a_duplicate() -> None:
    index = DuplicateIndex(-1)
    assert [index.seen_before(picture_hash(noise())) for _ in range(3)] == [False] * 3
    assert len(index) == 0


def test_a_distance_at_which_everything_is_near_is_refused() -> None:
    with pytest.raises(ConfigError, match="17 of 64 bits would make duplicates"):
        DuplicateIndex(17)


def test_a_hash_of_another_length_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="20 bytes, not 8"):
        DuplicateIndex(2).seen_before(PictureHash(bytes(8)))


def test_a_picture_takes_no_more_than_it_says() -> None:
    index = DuplicateIndex(2)
    random = np.random.default_rng(0)
    for _ in range(3000):
        index.seen_before(PictureHash(random.bytes(HASH_BYTES)))
    ids = sum(len(bucket) * bucket.itemsize for buckets in index._buckets for bucket in buckets.values())
    assert (len(index._structures) * 8 + len(index._colours) + ids) / len(index) == 20 + 3 * 4


def is_duplicate(one: Image.Image, other: Image.Image, max_distance: int = 4) -> bool:
    index = DuplicateIndex(max_distance)
    assert not index.seen_before(picture_hash(one))
    return index.seen_before(picture_hash(other))


def changed(picture: Image.Image, how: str) -> Image.Image:
    width, height = picture.size
    match how:
        case "same":
            return picture
        case "jpeg":
            return Image.open(io.BytesIO(file_of(picture, "JPEG", quality=75)))
        case "half":
            return picture.resize((width // 2, height // 2), Image.Resampling.LANCZOS)
        case "darker":
            return ImageEnhance.Brightness(picture).enhance(0.97)
        case _:
            return picture.crop((1, 1, width - 1, height - 1))


@pytest.mark.parametrize("how", ["same", "jpeg", "half", "darker", "cropped"])
@pytest.mark.parametrize("seed", range(5))
def test_a_picture_that_was_saved_again_is_the_same(seed: int, how: str) -> None:
    assert is_duplicate(smooth(128, 128, seed), changed(smooth(128, 128, seed), how))


def drawn(shape: str, colour: str, box: tuple[int, int, int, int] = (24, 24, 104, 104)) -> Image.Image:
    picture = Image.new("RGB", (128, 128), "white")
    draw = ImageDraw.Draw(picture)
    match shape:
        case "heart":
            left, top, right, bottom = box
            middle, half = (left + right) // 2, (right - left) // 2
            draw.ellipse((left, top, left + half, top + half), fill=colour)
            draw.ellipse((left + half, top, right, top + half), fill=colour)
            draw.polygon([(left, top + half // 2), (right, top + half // 2), (middle, bottom)], fill=colour)
        case "disc":
            draw.ellipse(box, fill=colour)
        case "square":
            draw.rectangle(box, fill=colour)
        case "cross":
            left, top, right, bottom = box
            draw.line((left, top, right, bottom), fill=colour, width=16)
            draw.line((left, bottom, right, top), fill=colour, width=16)
    return picture


GLYPHS = [
    *[("heart", colour, (24, 24, 104, 104)) for colour in ("red", "orange", "green", "blue", "black", "grey")],
    *[(shape, "red", (24, 24, 104, 104)) for shape in ("disc", "square", "cross")],
    *[("disc", "black", (x, y, x + 16, y + 16)) for x in (8, 56, 104) for y in (8, 56, 104)],
]


@pytest.mark.parametrize("how", ["same", "jpeg"])
def test_shapes_on_white_are_told_apart_by_form_place_and_colour(how: str) -> None:
    index = DuplicateIndex(4)
    assert [index.seen_before(picture_hash(drawn(*glyph))) for glyph in GLYPHS] == [False] * len(GLYPHS)
    assert all(index.seen_before(picture_hash(changed(drawn(*glyph), how))) for glyph in GLYPHS)


def test_flat_pictures_of_different_colours_are_different() -> None:
    index = DuplicateIndex(4)
    assert not any(index.seen_before(picture_hash(Image.new("RGB", (8, 8), c))) for c in ("red", "lime", "black"))
    assert index.seen_before(picture_hash(Image.new("RGB", (99, 20), "red")))


def test_flags_whose_colours_are_exchanged_are_different() -> None:
    one, other = Image.new("RGB", (96, 64), "blue"), Image.new("RGB", (96, 64), "red")
    one.paste("red", (48, 0, 96, 64))
    other.paste("blue", (48, 0, 96, 64))
    assert not is_duplicate(one, other)


def test_pictures_that_have_nothing_in_common_are_not_near() -> None:
    index = DuplicateIndex(4)
    assert not any(index.seen_before(picture_hash(smooth(128, 128, seed))) for seed in range(100))


def test_grey_has_the_hash_of_its_rgb() -> None:
    grey = smooth(64, 64).convert("L")
    assert picture_hash(grey) == picture_hash(grey.convert("RGB"))
    assert len(picture_hash(grey)) == HASH_BYTES


def test_the_hash_never_changes_for_it_is_kept_in_unfinished_builds() -> None:
    assert picture_hash(drawn("heart", "red")).hex() == "53350d0314445353ffababffa9a9ffddddffdada"
