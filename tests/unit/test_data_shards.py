"""A shard is the same bytes each time, and read as if an enemy had made it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffusion_at_home.data.manifest import ShardEntry
from diffusion_at_home.data.shards import (
    MAX_IMAGE_BYTES,
    MAX_TEXT_BYTES,
    Sample,
    decode_images,
    read_shard,
    write_shard,
)
from diffusion_at_home.errors import DataError

SIDE = 6
SIZE = (SIDE, SIDE)


def png(side: int = SIDE, level: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (level, 0, 255)).save(buffer, format="PNG")
    return buffer.getvalue()


def sample(key: str = "a", *, image: bytes | None = None, caption: str = "a square", suffix: str = "png") -> Sample:
    return Sample(key=key, image=image or png(), suffix=suffix, caption=caption, source="drawn", license="CC0-1.0")


def member(name: str, data: bytes = b"", size: int | None = None, kind: bytes = tarfile.REGTYPE) -> bytes:
    """One tar member as it lies in the file; `size` is what it declares."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data) if size is None else size, kind, "elsewhere"
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def good(key: str) -> bytes:
    facts = json.dumps({"source": "drawn", "license": "CC0-1.0"}).encode()
    return member(f"{key}.png", png()) + member(f"{key}.txt", b"a square") + member(f"{key}.json", facts)


def end() -> bytes:
    return bytes(2 * tarfile.BLOCKSIZE)


def refusal(path: Path, data: bytes, num_samples: int = 1) -> str:
    """What is said about a shard of these bytes, whose sha256 is as listed."""
    path.write_bytes(data)
    entry = ShardEntry(
        name=path.name,
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=max(1, len(data)),
        num_samples=num_samples,
        width=SIDE,
        height=SIDE,
    )
    with pytest.raises(DataError) as refused:
        read_shard(path, entry)
    assert str(path) in str(refused.value)
    return str(refused.value)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return tmp_path / "train-00000.tar"


def test_what_was_written_is_read_in_order(shard: Path) -> None:
    samples = [sample("b", caption="größer <3"), sample("a", suffix="webp"), sample("c-1_x", caption="")]
    entry = write_shard(shard, samples, SIZE)
    assert read_shard(shard, entry) == samples
    assert (entry.name, entry.size_bytes, entry.num_samples) == (shard.name, shard.stat().st_size, 3)
    assert entry.sha256 == hashlib.sha256(shard.read_bytes()).hexdigest()


def test_the_same_samples_are_the_same_bytes(shard: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.tar"
    samples = [sample("a"), sample("b")]
    assert write_shard(shard, samples, SIZE).sha256 == write_shard(again, samples, SIZE).sha256
    assert shard.read_bytes() == again.read_bytes()


def test_stock_tar_reads_a_shard(shard: Path) -> None:
    write_shard(shard, [sample("a")], SIZE)
    with tarfile.open(shard) as tar:
        assert tar.getnames() == ["a.png", "a.txt", "a.json"]


@pytest.mark.parametrize(
    "bad",
    [
        [sample("../a")],
        [sample("a"), sample("a")],
        [sample("")],
        [sample("a", suffix="exe")],
        [sample("a", caption="x" * (MAX_TEXT_BYTES + 1))],
    ],
    ids=["traversal", "twice", "no key", "suffix", "caption too long"],
)
def test_a_bad_sample_is_not_written_and_no_shard_appears(shard: Path, bad: list[Sample]) -> None:
    with pytest.raises(DataError, match="sample"):
        write_shard(shard, bad, SIZE)
    assert not shard.exists()


@pytest.mark.parametrize(
    "name",
    [
        "/a.png",
        "../a.png",
        "x/../../a.png",
        "dir/a.png",
        ".png",
        "a",
        "a.exe",
        "a.png.png",
        "ä.png",
        "a\nb.png",
        "-a.png",
    ],
)
def test_a_member_that_is_not_plain_is_refused_by_name(shard: Path, name: str) -> None:
    assert repr(name) in refusal(shard, member(name, png()) + good("z") + end())


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.DIRTYPE,
        tarfile.FIFOTYPE,
        tarfile.CHRTYPE,
        tarfile.CONTTYPE,
        tarfile.GNUTYPE_SPARSE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        b"?",
    ],
)
def test_a_member_that_is_no_plain_file_is_refused_by_name(shard: Path, kind: bytes) -> None:
    said = refusal(shard, good("a") + member("b.png", png(), kind=kind) + end(), num_samples=2)
    assert "b.png" in said


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("size", [-512, -1, MAX_IMAGE_BYTES + 1, 2**40, 2**63])
def test_a_size_beyond_all_limits_is_refused_before_anything_is_read(shard: Path, size: int, kind: bytes) -> None:
    said = refusal(shard, good("a") + member("b.png", png(), size=size, kind=kind) + end(), num_samples=2)
    assert "b.png" in said


def test_a_caption_over_its_own_limit_is_refused(shard: Path) -> None:
    said = refusal(shard, member("a.png", png()) + member("a.txt", b"x" * (MAX_TEXT_BYTES + 1)) + end())
    assert "a.txt has 65537 bytes, over the limit of 65536" in said


@pytest.mark.parametrize("size", [10**6, MAX_IMAGE_BYTES])
def test_a_size_beyond_the_end_of_the_file_is_refused(shard: Path, size: int) -> None:
    assert "is not a shard" in refusal(shard, member("a.png", png(), size=size) + end())


def test_a_shard_cut_anywhere_is_refused(shard: Path) -> None:
    whole = good("a") + good("b")
    for length in (0, 1, 511, 512, 700, len(whole) // 2, len(whole) - 513):
        refusal(shard, whole[:length], num_samples=2)


def test_a_member_that_comes_twice_is_refused(shard: Path) -> None:
    assert "a.txt comes twice" in refusal(shard, good("a") + member("a.txt", b"a circle") + end())


def test_more_or_fewer_samples_than_listed_are_refused(shard: Path) -> None:
    assert "more than the 1 samples" in refusal(shard, good("a") + good("b") + end())
    assert "has 1 samples instead of 2" in refusal(shard, good("a") + end(), num_samples=2)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([("png", png()), ("txt", b"")], "sample a has .png, .txt instead of one picture"),
        ([("png", png()), ("jpg", png()), ("txt", b""), ("json", b"{}")], "sample a has .jpg, .json, .png, .txt"),
        ([("txt", b""), ("json", b"{}")], "sample a has .json, .txt"),
        ([("png", png()), ("txt", b"ok \xff"), ("json", b"{}")], "a.txt is not UTF-8 (invalid start byte at byte 3)"),
        ([("png", png()), ("txt", b""), ("json", b"{")], "a.json is not a sample's facts"),
        ([("png", png()), ("txt", b""), ("json", b"[]")], "a.json is not a sample's facts"),
        ([("png", png()), ("txt", b""), ("json", b"[" * 60_000)], "a.json is not a sample's facts"),
        ([("png", png()), ("txt", b""), ("json", b'{"source": "x"}')], "a.json is not a sample's facts"),
        ([("png", png()), ("txt", b""), ("json", b'{"source": "\\ud800", "license": ""}')], "a.json is not"),
    ],
)
def test_a_sample_that_is_not_one_is_refused_by_name(shard: Path, parts: list[tuple[str, bytes]], said: str) -> None:
    assert said in refusal(shard, b"".join(member(f"a.{suffix}", data) for suffix, data in parts) + end())


@pytest.mark.parametrize("data", [b"", b"not a tar" * 200, zlib.compress(good("a"))], ids=["empty", "text", "packed"])
def test_what_is_no_tar_is_refused(shard: Path, data: bytes) -> None:
    assert "is not a shard" in refusal(shard, data)


def test_a_shard_that_is_missing_or_a_folder_is_named(tmp_path: Path, shard: Path) -> None:
    entry = write_shard(shard, [sample()], SIZE)
    with pytest.raises(DataError, match=r"shard .*gone\.tar is missing"):
        read_shard(tmp_path / "gone.tar", entry)
    with pytest.raises(DataError, match=str(tmp_path)):
        read_shard(tmp_path, entry)


def decode(image: bytes) -> np.ndarray:
    return decode_images([sample(image=image)], SIZE, 3).numpy()


def test_levels_become_minus_one_to_one() -> None:
    decoded = decode(png(level=255))
    assert decoded.shape == (1, 3, SIDE, SIDE)
    assert decoded.dtype == np.float32
    assert decoded[0, :, 0, 0].tolist() == [1.0, -1.0, 1.0]


def test_grey_pictures_have_one_channel() -> None:
    assert decode_images([sample()], SIZE, 1).shape == (1, 1, SIDE, SIDE)


def test_a_picture_of_another_size_is_refused_by_its_sample() -> None:
    with pytest.raises(DataError, match=r"sample a has \(5, 5\) pixels instead of \(6, 6\)"):
        decode(png(side=5))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """A PNG of a few hundred bytes that declares side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("image", [bomb(10_000), bomb(20_000), bomb(2**31 - 1)], ids=["large", "huge", "absurd"])
def test_a_picture_that_would_fill_the_memory_is_refused_unread(image: bytes) -> None:
    with pytest.raises(DataError, match="sample a"):
        decode(image)


def packed_text(size: int) -> bytes:
    whole = png()
    return whole[:33] + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(size), 9)) + whole[33:]


def test_text_that_would_fill_the_memory_is_refused() -> None:
    with pytest.raises(DataError, match="sample a is not a picture"):
        decode(packed_text(10**8))


def test_other_picture_formats_are_refused() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(buffer, format="BMP")
    with pytest.raises(DataError, match="sample a is not a picture"):
        decode(buffer.getvalue())


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    levels = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(levels).save(buffer, format=kind)
    return buffer.getvalue()


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """`whole` with a few bytes flipped, then perhaps cut or doubled."""
    flips = st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=4)

    def damage(flips: list[tuple[int, int]], end: int, times: int) -> bytes:
        data = bytearray(whole)
        for place, value in flips:
            data[place] = value
        return bytes(data[:end]) * times

    return st.builds(damage, flips, st.integers(0, len(whole)) | st.just(len(whole)), st.integers(1, 2))


def raises_data_error_or_nothing(read: Callable[[], object]) -> None:
    with contextlib.suppress(DataError):
        read()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_damaged_picture_raises_nothing_but_data_error(kind: str) -> None:
    whole = encoded(kind)

    @given(damaged(whole))
    def check(data: bytes) -> None:
        raises_data_error_or_nothing(lambda: decode(data))

    check()


@given(damaged(good("a") + good("b") + end()))
def test_a_damaged_shard_raises_nothing_but_data_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.tar"
    path.write_bytes(data)
    entry = ShardEntry(
        name=path.name, sha256="0" * 64, size_bytes=max(1, len(data)), num_samples=2, width=SIDE, height=SIDE
    )
    raises_data_error_or_nothing(lambda: read_shard(path, entry))


@given(st.binary(max_size=155), st.integers(-(2**62), 2**62), st.sampled_from(b"\0" + b"01234567ALKMNSVgxX"))
def test_a_header_of_any_content_raises_nothing_but_data_error(
    tmp_path_factory: pytest.TempPathFactory, name: bytes, size: int, kind: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "header.tar"
    info = tarfile.TarInfo(name.replace(b"\0", b"").decode("latin-1")[:90])
    info.size, info.type = size, bytes([kind])
    path.write_bytes(good("a") + info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    entry = ShardEntry(name=path.name, sha256="0" * 64, size_bytes=2**20, num_samples=2, width=SIDE, height=SIDE)
    raises_data_error_or_nothing(lambda: read_shard(path, entry))
