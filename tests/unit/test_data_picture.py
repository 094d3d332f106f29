"""A picture that lies is made right or refused by name; nothing else is ever raised."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from diffusion_at_home.data.duplicates import picture_hash
from diffusion_at_home.data.picture import PictureFormat, PictureRules, Unusable, prepare
from diffusion_at_home.data.sources.source import Reason
from tests.unit.odd_pictures import (
    file_of,
    halves,
    noise,
    pixels,
    png_declaring,
    png_with_late_orientation,
    profile_with_red_and_green_exchanged,
    refusal,
    rules,
    smooth,
    stored_sideways,
    webp_declaring,
)


def several(kind: str) -> bytes:
    """Three pictures in one file."""
    return file_of(noise(), kind, save_all=True, append_images=[noise(seed=1), noise(seed=2)])


# What is refused


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0",
        b"no picture at all",
        np.random.default_rng(0).bytes(100_000),
        b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8"/></svg>',
        file_of(noise(), "PPM"),
        file_of(noise(), "PNG")[:-60],
        file_of(noise(), "JPEG")[:-60],
        file_of(noise(), "JPEG", progressive=True)[:-60],
        file_of(noise(), "WEBP")[:-20],
        file_of(noise(), "GIF")[:-60],
        file_of(noise(), "BMP")[:-60],
        file_of(noise(), "TIFF")[:-60],
        file_of(noise(), "TIFF", compression="tiff_lzw")[: 8 * 8 * 3 - 60],
        b"GIF89a" + bytes(7) + b";",
        png_declaring(0, 8),
    ],
    ids=lambda raw: repr(raw[:12]),
)
def test_what_is_no_whole_picture_is_unreadable(raw: bytes) -> None:
    reason, detail = refusal(raw)
    assert reason == Reason.UNREADABLE
    assert detail
    assert "0x" not in detail  # the same words each time


@pytest.mark.parametrize("mode", ["I", "F"])
def test_grey_of_unknown_range_is_unreadable_and_says_so(mode: str) -> None:
    reason, detail = refusal(file_of(Image.new(mode, (8, 8)), "TIFF"))
    assert (reason, detail) == (
        Reason.UNREADABLE,
        "nothing says which of its 32-bit levels are black and white",
    )


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (png_declaring(50_000, 50_000), "2500000000 pixels"),
        (png_declaring(9_000, 9_000), "9000 x 9000 pixels, over the limit of 67108864"),
        (png_declaring(2**31 - 1, 1), "2147483647"),
        (webp_declaring(16_383, 16_383), "268402689 pixels"),
    ],
    ids=["png", "png within Pillow's limit", "png line", "webp"],
)
def test_a_bomb_is_too_large_by_what_it_declares(raw: bytes, words: str) -> None:
    reason, detail = refusal(raw)
    assert reason == Reason.TOO_LARGE
    assert words in detail


def test_a_file_over_the_limit_of_bytes_is_too_large() -> None:
    assert refusal(file_of(noise()), rules(max_bytes=50))[0] == Reason.TOO_LARGE


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF"])
def test_several_pictures_in_a_file_are_animated(kind: str) -> None:
    assert refusal(several(kind)) == (Reason.ANIMATED, f"a {kind} of several pictures")


@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1)])
def test_a_line_is_an_extreme_shape(size: tuple[int, int]) -> None:
    reason, detail = refusal(file_of(Image.new("RGB", size)))
    assert reason == Reason.EXTREME_SHAPE
    assert detail.startswith(f"{size[0]} x {size[1]} pixels, whose aspect is 30000.00 times")


def test_a_picture_smaller_than_its_bucket_is_too_small() -> None:
    assert refusal(file_of(noise(7, 8))) == (
        Reason.TOO_SMALL,
        "7 x 8 pixels would be enlarged 1.14 times to 8 x 8, over the limit of 1.0",
    )
    assert pixels(file_of(noise(7, 8)), rules(max_enlargement=1.2)).shape == (8, 8, 3)


@pytest.mark.parametrize(
    "picture",
    [Image.new("RGB", (8, 8), "blue"), Image.new("L", (9, 8)), Image.new("RGBA", (8, 8)), Image.new("1", (8, 8))],
    ids=["blue", "black", "transparent", "1-bit"],
)
def test_one_colour_all_over_is_blank(picture: Image.Image) -> None:
    assert refusal(file_of(picture))[0] == Reason.BLANK


def test_a_refusal_crosses_to_another_process() -> None:
    back = pickle.loads(pickle.dumps(Unusable(Reason.BLANK, "of one colour")))
    assert (back.reason, back.detail, str(back)) == (Reason.BLANK, "of one colour", "blank: of one colour")


# What is made right


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PNG", {"save_all": True}),
    ],
)
def test_a_picture_of_its_buckets_size_keeps_every_pixel(kind: str, options: dict[str, Any]) -> None:
    assert np.array_equal(pixels(file_of(noise(), kind, **options)), np.asarray(noise()))


def test_a_gif_of_one_picture_is_a_picture() -> None:
    picture = halves("red", "lime", "RGB")
    assert np.array_equal(pixels(file_of(picture, "GIF")), np.asarray(picture))


def test_a_phones_jpeg_with_another_picture_behind_it_is_its_first() -> None:
    first, second = smooth(64, 64), smooth(64, 64, seed=1)
    raw = file_of(first, "MPO", save_all=True, append_images=[second], quality=95)
    made = pixels(raw, rules(64, 64)).astype(int)
    assert np.abs(made - np.asarray(first)).mean() < 3
    assert pixels(raw, rules(8, 8)).shape == (8, 8, 3)


def test_cmyk_becomes_rgb() -> None:
    picture = halves((255, 0, 0, 0), (0, 0, 255, 0), "CMYK", side=32)  # cyan and yellow ink
    made = pixels(file_of(picture, "JPEG", quality=95), rules(32, 32)).astype(int)
    assert np.abs(made[:, :12] - [0, 255, 255]).max() < 8
    assert np.abs(made[:, -12:] - [255, 255, 0]).max() < 8


def test_grey_of_16_bits_is_scaled_and_not_clipped() -> None:
    levels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    wanted = np.round(levels / 257).astype(np.uint8)
    assert len(np.unique(wanted)) == 64
    for kind in ("PNG", "TIFF"):
        made = pixels(file_of(Image.fromarray(levels), kind), rules(channels=1))
        assert np.array_equal(made, wanted)


def test_the_transparent_level_of_16_bit_grey_is_white() -> None:
    levels = np.full((8, 8), 1000, dtype=np.uint16)
    levels[:, 4:] = 30_000
    made = pixels(file_of(Image.fromarray(levels), transparency=1000), rules(channels=1))
    assert (made[0, 0], made[0, -1]) == (255, 117)


def test_one_bit_a_pixel_is_black_and_white() -> None:
    made = pixels(file_of(halves(0, 1, "1")))
    assert (made[0, 0].tolist(), made[0, -1].tolist()) == ([0, 0, 0], [255, 255, 255])


def painted(picture: Image.Image) -> Image.Image:
    picture.putpalette([255, 0, 0, 0, 255, 0])
    return picture


@pytest.mark.parametrize(
    ("picture", "options", "left", "right"),
    [
        (halves((255, 0, 0, 255), (0, 0, 0, 0), "RGBA"), {}, [255, 0, 0], [255, 255, 255]),
        (halves((255, 0, 0, 255), (0, 0, 0, 102), "RGBA"), {}, [255, 0, 0], [153, 153, 153]),
        (halves((0, 255), (0, 102), "LA"), {}, [0, 0, 0], [153, 153, 153]),
        (painted(halves(0, 1, "P")), {"transparency": b"\xff\x66"}, [255, 0, 0], [153, 255, 153]),
        (painted(halves(0, 1, "P")), {"transparency": 1}, [255, 0, 0], [255, 255, 255]),
        (halves(10, 200, "L"), {"transparency": 10}, [255, 255, 255], [200, 200, 200]),
        (halves((9, 9, 9), (1, 2, 3), "RGB"), {"transparency": (9, 9, 9)}, [255, 255, 255], [1, 2, 3]),
    ],
    ids=["clear", "translucent", "grey and alpha", "translucent palette", "palette", "grey level", "colour"],
)
def test_what_is_transparent_is_laid_on_white(
    picture: Image.Image, options: dict[str, Any], left: list[int], right: list[int]
) -> None:
    made = pixels(file_of(picture, **options))
    assert (made[0, 0].tolist(), made[0, -1].tolist()) == (left, right)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "PNG late", "WEBP", "TIFF", "JPEG"])
def test_every_orientation_is_turned_upright(kind: str, orientation: int) -> None:
    upright = smooth(96, 64)
    stored, exif = stored_sideways(upright, orientation)
    if kind == "PNG late":
        raw = png_with_late_orientation(stored, orientation)
    else:
        raw = file_of(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {"quality": 95}))
    made = pixels(raw, rules(96, 64)).astype(int)
    assert np.abs(made - np.asarray(upright)).mean() < (2 if kind == "JPEG" else 1e-9)
    smaller = pixels(raw, rules(24, 16)).astype(int)
    assert np.abs(smaller - np.asarray(upright.resize((24, 16), Image.Resampling.LANCZOS))).mean() < 3


def test_wrong_exif_data_are_not_the_pictures_fault() -> None:
    broken = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\xff\xff" * 40
    assert np.array_equal(pixels(file_of(noise(), exif=broken)), np.asarray(noise()))


def test_a_profile_is_honoured() -> None:
    for kind in ("PNG", "TIFF"):
        raw = file_of(halves("red", "blue", "RGB"), kind, icc_profile=profile_with_red_and_green_exchanged())
        made = pixels(raw).astype(int)
        assert np.abs(made[0, 0] - [0, 255, 0]).max() < 4
        assert np.abs(made[0, -1] - [0, 0, 255]).max() < 4


def test_the_usual_profile_changes_next_to_nothing() -> None:
    usual = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    made = pixels(file_of(noise(), icc_profile=usual)).astype(int)
    assert np.abs(made - np.asarray(noise())).max() <= 1


@pytest.mark.parametrize(
    "profile",
    [b"x", bytes(200), np.random.default_rng(0).bytes(900_000), profile_with_red_and_green_exchanged()[:300]],
    ids=["one byte", "zeros", "huge garbage", "cut"],
)
def test_a_bad_profile_is_ignored(profile: bytes) -> None:
    assert np.array_equal(pixels(file_of(noise(), icc_profile=profile)), np.asarray(noise()))


def test_a_profile_for_another_mode_is_ignored() -> None:
    raw = file_of(noise().convert("L"), icc_profile=profile_with_red_and_green_exchanged())
    assert np.array_equal(pixels(raw, rules(channels=1)), np.asarray(noise().convert("L")))
    cmyk = halves((255, 0, 0, 0), (0, 0, 255, 0), "CMYK", side=32)
    raw = file_of(cmyk, "JPEG", quality=95, icc_profile=profile_with_red_and_green_exchanged())
    assert np.abs(pixels(raw, rules(32, 32))[0, 0].astype(int) - [0, 255, 255]).max() < 8


# What comes out


def test_the_rest_is_cropped_evenly() -> None:
    picture = Image.new("RGB", (96, 32), "red")
    picture.paste("lime", (32, 0, 64, 32))
    picture.paste("blue", (48, 0, 64, 32))
    made = pixels(file_of(picture), rules(32, 32, max_stretch=4))
    assert (made[:, :16] == [0, 255, 0]).all()
    assert (made[:, 16:] == [0, 0, 255]).all()


def test_the_nearest_bucket_is_taken_and_covered() -> None:
    wanted = PictureRules(buckets=((8, 8), (12, 4), (4, 12)))
    assert prepare(file_of(noise(13, 5)), wanted).size == (12, 4)
    assert prepare(file_of(noise(30, 100)), wanted).size == (4, 12)
    assert prepare(file_of(noise(9, 11)), wanted).size == (8, 8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_short_way_of_resizing_is_as_good_as_the_long_one(kind: str) -> None:
    raw = file_of(smooth(900, 700), kind)
    with Image.open(io.BytesIO(raw)) as picture:
        plain = picture.resize((90, 70), Image.Resampling.LANCZOS)
    error = pixels(raw, rules(90, 70)).astype(float) - np.asarray(plain)
    assert (error**2).mean() < 255**2 / 10**4.5  # 45 dB


def crowded(kind: str) -> bytes:
    """A picture with everything beside it that files may carry."""
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    options: dict[str, Any] = {"comment": b"about me", "dpi": (300, 300)} if kind == "JPEG" else {}
    return file_of(smooth(64, 64), kind, exif=exif, icc_profile=profile, **options)


@pytest.mark.parametrize("made", PictureFormat)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_same_bytes_come_out_each_time_and_nothing_beside_the_pixels(kind: str, made: PictureFormat) -> None:
    raw = crowded(kind)
    first = prepare(raw, rules(32, 32, format=made))
    assert prepare(raw, rules(32, 32, format=made)) == first
    assert first.suffix == made.value
    assert b"live" not in first.image
    with Image.open(io.BytesIO(first.image)) as picture:
        assert picture.format == {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[made]
        assert (picture.size, picture.mode) == ((32, 32), "RGB")
        assert not picture.info.keys() & {"exif", "icc_profile", "comment", "xmp", "dpi"}
        assert not picture.getexif()


@pytest.mark.parametrize("made", [PictureFormat.PNG, PictureFormat.JPG])
def test_grey_is_one_channel(made: PictureFormat) -> None:
    with Image.open(io.BytesIO(prepare(file_of(noise()), rules(channels=1, format=made)).image)) as picture:
        assert picture.mode == "L"


def test_lossless_webp_keeps_every_pixel() -> None:
    made = rules(format=PictureFormat.WEBP, lossless=True)
    assert np.array_equal(pixels(file_of(noise()), made), np.asarray(noise()))


def test_the_hash_is_that_of_the_finished_picture() -> None:
    assert prepare(file_of(smooth(64, 64)), rules(64, 64)).hash == picture_hash(smooth(64, 64))


# Whatever the bytes


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """`whole` with a few bytes changed, most of them in its headers, then perhaps cut or doubled."""
    places = st.integers(0, min(200, len(whole) - 1)) | st.integers(0, len(whole) - 1)
    flips = st.lists(st.tuples(places, st.integers(0, 255)), max_size=6)

    def damage(flips: list[tuple[int, int]], end: int, times: int) -> bytes:
        data = bytearray(whole)
        for place, value in flips:
            data[place] = value
        return bytes(data[:end]) * times

    return st.builds(damage, flips, st.just(len(whole)) | st.integers(0, len(whole)), st.integers(1, 2))


WHOLE = {
    "png": file_of(noise()),
    "palette": file_of(noise().quantize(8), transparency=b"\x00\x80"),
    "apng": several("PNG"),
    "crowded jpeg": crowded("JPEG"),
    "progressive jpeg": file_of(noise(), "JPEG", progressive=True),
    "cmyk jpeg": file_of(noise().convert("CMYK"), "JPEG", icc_profile=profile_with_red_and_green_exchanged()),
    "mpo": several("MPO"),
    "webp": file_of(noise(), "WEBP"),
    "crowded webp": crowded("WEBP"),
    "gif": file_of(noise(), "GIF"),
    "gif animation": several("GIF"),
    "bmp": file_of(noise(), "BMP"),
    "palette bmp": file_of(noise().quantize(8), "BMP"),
    "tiff": file_of(noise(), "TIFF"),
    "lzw tiff": file_of(noise(), "TIFF", compression="tiff_lzw", exif=stored_sideways(noise(), 6)[1]),
    "jpeg tiff": file_of(noise(16, 16), "TIFF", compression="jpeg"),
}


def is_taken_or_refused(raw: bytes) -> None:
    detail = "taken"
    try:
        prepare(raw, rules())
    except Unusable as refused:
        detail = refused.detail
    assert detail
    assert " at 0x" not in detail  # the same words each time


@pytest.mark.parametrize("kind", WHOLE)
def test_a_damaged_file_is_taken_or_refused_and_nothing_else(kind: str) -> None:
    @given(damaged(WHOLE[kind]))
    def check(raw: bytes) -> None:
        is_taken_or_refused(raw)

    check()


@given(st.binary(max_size=300), st.sampled_from([whole[:26] for whole in WHOLE.values()]))
def test_any_bytes_behind_a_good_beginning_are_taken_or_refused_and_nothing_else(rest: bytes, beginning: bytes) -> None:
    is_taken_or_refused(beginning + rest)
