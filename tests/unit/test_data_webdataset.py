"""Tars of others are read in pieces, and whatever they declare, nothing is believed and one bad picture costs one picture."""

from __future__ import annotations

import io
import json
import pickle
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusion_at_home.data.shards import MAX_IMAGE_BYTES, MAX_TEXT_BYTES
from diffusion_at_home.data.sources.source import Raw, Reason, Refused
from diffusion_at_home.data.sources.webdataset import WebDatasetSource
from diffusion_at_home.errors import DataError

calmly = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no mistake
JPG = b"\xff\xd8 not looked at here"


def member(
    name: str,
    data: bytes = b"",
    size: int | None = None,
    kind: bytes = tarfile.REGTYPE,
    pax: dict[str, str] | None = None,
) -> bytes:
    """One member as it lies in the file; `size` is what it declares."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data) if size is None else size, kind, "elsewhere"
    info.pax_headers = pax or {}
    how = tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT
    return info.tobuf(how) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def sample(key: str, caption: str = "a cat", **facts: object) -> bytes:
    """In the order that img2dataset writes."""
    text = json.dumps({"caption": caption, "key": key, **facts}).encode()
    return (
        member(f"{key}.jpg", JPG + key.encode()) + member(f"{key}.json", text) + member(f"{key}.txt", caption.encode())
    )


END = bytes(2 * tarfile.BLOCKSIZE)


def read(path: Path, unit_samples: int = 500) -> list[Raw | Refused]:
    """Everything, nothing where there are no samples; a piece that cannot be read is a refused "damaged"."""
    source, found = WebDatasetSource(path, unit_samples=unit_samples), list[Raw | Refused]()
    try:
        units = source.units()
    except DataError:
        return []
    for unit in units:
        try:
            found.extend(source.read(unit))
        except DataError as error:
            found.append(Refused("damaged", Reason.UNREADABLE, str(error)))
    return found


def tar(folder: Path, *parts: bytes, name: str = "00000.tar") -> Path:
    path = folder / name
    path.write_bytes(b"".join(parts))
    return path


def kept(items: Sequence[Raw | Refused]) -> list[str]:
    return [item.name for item in items if isinstance(item, Raw)]


def refused(items: Sequence[Raw | Refused]) -> list[tuple[str, Reason]]:
    return [(item.name, item.reason) for item in items if isinstance(item, Refused)]


def test_what_img2dataset_writes_is_read_with_all_that_is_known(tmp_path: Path) -> None:
    facts = {"url": "https://example.org/1", "license": "CC0-1.0", "author": "A. Painter", "punsafe": 0.1, "width": 9}
    path = tar(tmp_path, sample("000000001", **facts), sample("000000002"), END)
    first, second = read(path)
    assert first == Raw(
        name="00000.tar/000000001",
        image=JPG + b"000000001",
        captions=("a cat",),
        source="https://example.org/1",
        license="CC0-1.0",
        author="A. Painter",
        url="https://example.org/1",
        scores={"punsafe": 0.1, "width": 9.0},
    )
    assert isinstance(second, Raw)
    assert (second.license, second.source, second.held_out) == ("", "", None)  # the build has words for these


@pytest.mark.parametrize("how", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_what_stock_tarfile_writes_is_read_as_it_reads_it(tmp_path: Path, how: int) -> None:
    path = tmp_path / "stock.tar"
    folder = "a/very/deep/folder/" * 6
    names = [f"./{folder}{key}.{suffix}" for key in ("one", "two") for suffix in ("jpg", "seg.png", "txt")]
    with tarfile.open(path, "w", format=how) as stock:
        stock.addfile(tarfile.TarInfo("empty"))
        for name in names:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(name), 1700000000.25 if how == tarfile.PAX_FORMAT else 0  # type: ignore[assignment]
            stock.addfile(info, io.BytesIO(name.encode()))
    items = read(path)
    assert kept(items) == [f"stock.tar/{folder}one", f"stock.tar/{folder}two"]
    assert [item.image.decode() for item in items if isinstance(item, Raw)] == [names[0], names[3]]
    assert [item.captions for item in items if isinstance(item, Raw)] == [(names[2],), (names[5],)]


@pytest.mark.parametrize("unit_samples", [1, 3, 7, 100])
def test_pieces_make_the_whole_whatever_their_size(tmp_path: Path, unit_samples: int) -> None:
    tar(tmp_path, *(sample(f"{key:03d}") for key in range(7)), END, name="a.tar")
    (tmp_path / "more").mkdir()
    tar(tmp_path / "more", *(sample(f"{key:03d}") for key in range(5)), END, name="b.tar")
    source = WebDatasetSource(tmp_path, unit_samples=unit_samples)
    units = source.units()
    assert len(units) == len(set(units)) == -(-7 // unit_samples) + -(-5 // unit_samples)
    found = [item for unit in units for item in pickle.loads(pickle.dumps(source)).read(unit)]
    assert kept(found) == [f"a.tar/{key:03d}" for key in range(7)] + [f"more/b.tar/{key:03d}" for key in range(5)]
    again = [item for unit in reversed(units) for item in reversed(list(source.read(unit)))]
    assert again[::-1] == found


def test_what_is_no_picture_is_passed_by(tmp_path: Path) -> None:
    path = tar(
        tmp_path,
        member("folder", kind=tarfile.DIRTYPE, size=4096),
        member("link.jpg", kind=tarfile.SYMTYPE, size=99),
        member("hard.jpg", kind=tarfile.LNKTYPE),
        member("global", b"30 mtime=1700000000.123456789\n", kind=tarfile.XGLTYPE),
        member("unknown.jpg", b"vendor", kind=b"Z"),
        member("a.cls", b"3"),
        member("a.npy", b"x" * 700),
        sample("b"),
        member("b.mask.png", b"mask"),
        END,
        sample("behind the end"),
    )
    items = read(path)
    assert kept(items) == ["00000.tar/b"]
    assert refused(items) == []


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([member("a.txt", b"a cat"), member("a.json", b"{}")], Reason.UNREADABLE),
        ([member("a.jpg", JPG), member("a.txt", b"\xff")], Reason.UNREADABLE),
        ([member("a.jpg", JPG), member("a.json", b"[]")], Reason.UNREADABLE),
        ([member("a.jpg", JPG), member("a.json", b"{")], Reason.UNREADABLE),
        ([member("a.jpg", JPG), member("a.json", b"[" * 60_000)], Reason.UNREADABLE),
        ([member("a.jpg", JPG), member("a.json", b'{"n": ' + b"9" * 60_000 + b"}")], Reason.UNREADABLE),
        ([member("a.jpg", JPG), member("a.txt", b"x" * (MAX_TEXT_BYTES + 1))], Reason.TOO_LARGE),
    ],
    ids=["no picture", "not UTF-8", "a list", "half", "deep", "a huge number", "a long caption"],
)
def test_a_bad_sample_costs_one_sample(tmp_path: Path, parts: list[bytes], reason: Reason) -> None:
    items = read(tar(tmp_path, sample("before"), *parts, sample("c"), END))
    assert kept(items) == ["00000.tar/before", "00000.tar/c"]
    assert refused(items) == [("00000.tar/a", reason)]


def test_a_picture_over_the_limit_is_passed_over_unread(tmp_path: Path) -> None:
    path, size = tmp_path / "large.tar", MAX_IMAGE_BYTES + 1
    with path.open("wb") as file:
        file.write(sample("a") + member("b.jpg", size=size))
        file.seek(-(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, io.SEEK_CUR)  # a hole: no byte of it is written
        file.write(sample("c") + END)
    items = read(path)
    assert kept(items) == ["large.tar/a", "large.tar/c"]
    assert refused(items) == [("large.tar/b", Reason.TOO_LARGE)]


@pytest.mark.parametrize("declared", [10_000, 2**33, 2**62])
def test_a_size_that_lies_takes_no_memory_and_keeps_what_came_before(tmp_path: Path, declared: int) -> None:
    items = read(tar(tmp_path, sample("a"), member("b.jpg", b"short", size=declared), END))
    assert kept(items) == ["00000.tar/a"]
    assert refused(items) in ([("00000.tar/b", Reason.UNREADABLE)], [("00000.tar/b", Reason.TOO_LARGE)])


@pytest.mark.parametrize(
    "damage",
    [
        member("b.jpg", size=-1),
        member("b.jpg", kind=tarfile.GNUTYPE_SPARSE),
        member("b.jpg", JPG, pax={"GNU.sparse.size": "9"}),
        member("b.jpg", JPG, pax={"size": "-3"}),
        member("x", b"not pax", kind=tarfile.XHDTYPE) + member("b.jpg", JPG),
        member("x", b"0 a=b\n", kind=tarfile.XHDTYPE) + member("b.jpg", JPG),
        member("x", size=2**40, kind=tarfile.XHDTYPE),
        member("x", b"n" * 70_000, kind=tarfile.GNUTYPE_LONGNAME) + member("b.jpg", JPG),
        b"garbage!" * 64,
    ],
    ids=["negative", "sparse", "pax sparse", "pax size", "pax", "pax length 0", "pax size", "long name", "garbage"],
)
def test_damage_is_named_and_what_lies_before_is_used(tmp_path: Path, damage: bytes) -> None:
    path = tar(tmp_path, sample("a"), damage, sample("c"), END)
    for unit_samples in (1, 500):
        items = read(path, unit_samples)
        assert kept(items) == ["00000.tar/a"]
        assert refused(items) == [("damaged", Reason.UNREADABLE)]
        assert isinstance(items[-1], Refused)
        assert f"{path} is no tar, or is damaged: " in items[-1].detail


def test_a_truncated_tar_gives_what_is_whole(tmp_path: Path) -> None:
    whole = b"".join(sample(f"{key}") for key in range(3)) + END
    rng = random.Random(1)
    for cut in (0, 1, 511, 512, 513, *(rng.randrange(len(whole)) for _ in range(40))):
        names = kept(read(tar(tmp_path, whole[:cut]), unit_samples=2))
        assert names == [f"00000.tar/{key}" for key in range(len(names))]
        assert len(names) >= cut // len(sample("0"))


def test_a_name_that_comes_again_is_refused(tmp_path: Path) -> None:
    items = read(tar(tmp_path, sample("a"), sample("b"), sample("a"), END))
    assert kept(items) == ["00000.tar/a", "00000.tar/b"]
    assert refused(items) == [("00000.tar/a", Reason.UNREADABLE)]


def test_of_two_pictures_of_a_name_the_first_is_taken(tmp_path: Path) -> None:
    path = tar(tmp_path, member("a.jpg", b"first"), member("a.png", b"second"), member("a.txt", b"one\n"), END)
    (only,) = read(path)
    assert isinstance(only, Raw)
    assert (only.image, only.captions) == (b"first", ("one",))


def test_names_that_climb_or_shout_are_only_names(tmp_path: Path) -> None:
    (only,) = read(tar(tmp_path, member("../../etc/\n\x1b[31mpasswd.jpg", JPG), END))
    assert only.name == "00000.tar/../../etc/��[31mpasswd"
    assert list(tmp_path.iterdir()) == [tmp_path / "00000.tar"]


@settings(calmly, max_examples=150)
@given(st.data())
def test_flipped_bytes_never_end_in_anything_but_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(
        b"".join(sample(f"{key}") for key in range(3)) + member("p.jpg", JPG, pax={"comment": "long " * 9}) + END
    )
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=6)
    ):
        whole[position] = value
    folder = tmp_path_factory.mktemp("flipped")
    assert len(read(tar(folder, bytes(whole)), unit_samples=2)) <= 12


@settings(calmly, max_examples=50)
@given(st.binary(max_size=3000))
def test_random_bytes_are_no_tar(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    assert kept(read(tar(tmp_path_factory.mktemp("random"), data))) == []


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.zst"])
def test_a_compressed_tar_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    path = tar(tmp_path, b"whatever", name=name)
    for place in (path, tmp_path):
        with pytest.raises(DataError, match=r"unpack it"):
            WebDatasetSource(place)


def test_where_there_is_nothing_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no \.tar in"):
        WebDatasetSource(tmp_path / "nowhere")
    tar(tmp_path, END)
    with pytest.raises(DataError, match="hold no samples"):
        WebDatasetSource(tmp_path).units()


def test_a_tar_that_went_away_is_named(tmp_path: Path) -> None:
    path = tar(tmp_path, sample("a"), END)
    source = WebDatasetSource(tmp_path)
    (unit,) = source.units()
    path.unlink()
    with pytest.raises(DataError, match=r"00000\.tar cannot be read"):
        list(source.read(unit))
    with pytest.raises(DataError, match="is no piece of a tar"):
        list(source.read("00000.tar"))
