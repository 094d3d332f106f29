"""The same source gives the same bytes; what is there already is checked, and never overwritten."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from diffusion_at_home.data.build import build
from diffusion_at_home.data.digits import DIGIT_WORDS, digit_samples, digits_arrays
from diffusion_at_home.data.inspect import contact_sheet, read_pictures, summarize
from diffusion_at_home.data.manifest import MANIFEST_NAME, DataManifest, verify
from diffusion_at_home.data.shards import decode_images, read_shard, write_shard
from diffusion_at_home.errors import ConfigError, DataError, StorageError
from tests.unit.picture_folder import contents


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set, not to be changed."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    build("digits", folder)
    return folder


@pytest.fixture
def copy(digits: Path, tmp_path: Path) -> Path:
    """One that may be changed."""
    return Path(shutil.copytree(digits, tmp_path / "digits"))


SHARDS_SHA256 = "92c20d4c8e73c8158014edb3b5864232b144f94e8258080b8d8ca462cce22bc4"
"""Of the sha256 (hex) of all shards of the digits, in order: every run of them so far was trained on these."""


def test_the_digits_are_what_they_always_were(digits: Path) -> None:
    manifest = DataManifest.load(digits)
    names = "".join(entry.sha256 for entry in (*manifest.train, *manifest.held_out))
    assert hashlib.sha256(names.encode()).hexdigest() == SHARDS_SHA256


def test_building_twice_gives_the_same_bytes(digits: Path, tmp_path: Path) -> None:
    again = build("digits", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(digits)
    assert again.digest == DataManifest.load(digits).digest


def test_every_digit_is_there_once_and_every_sixth_is_held_out(digits: Path) -> None:
    manifest = DataManifest.load(digits)
    train = [sample for entry in manifest.train for sample in read_shard(digits / entry.name, entry)]
    held_out = [sample for entry in manifest.held_out for sample in read_shard(digits / entry.name, entry)]
    assert (len(train), len(held_out)) == (1501, 296)
    assert len({sample.key for sample in train + held_out}) == 1797
    everything = Counter(sample.caption for sample in train + held_out)
    assert Counter(sample.caption for sample in held_out) == {caption: n // 6 for caption, n in everything.items()}
    assert set(everything) == {f"a handwritten {word}" for word in DIGIT_WORDS}


def test_the_pictures_are_exactly_those_of_the_source() -> None:
    samples = {sample.key: sample for held_out in (False, True) for sample in digit_samples(held_out=held_out)}
    in_order = [samples[f"digit-{index:04d}"] for index in range(len(samples))]
    decoded = decode_images(in_order, (8, 8), 1)[:, 0]
    assert ((decoded + 1) * 8).round().numpy().tolist() == (digits_arrays()[0] * 16).tolist()


def test_source_and_licence_stay_with_every_sample() -> None:
    facts = {(sample.source, sample.license) for sample in digit_samples(held_out=True)}
    assert [spdx for _, spdx in facts] == ["CC-BY-4.0"]


def test_a_good_data_set_is_left_alone(copy: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in copy.iterdir()}
    assert build("digits", copy) == DataManifest.load(copy)
    assert {path.name: path.stat().st_mtime_ns for path in copy.iterdir()} == before


def test_a_build_that_was_broken_off_is_made_whole(copy: Path, digits: Path) -> None:
    (copy / MANIFEST_NAME).unlink()
    (copy / "train-00003.tar").rename(copy / "train-00003.tmp")
    build("digits", copy)
    assert {name: data for name, data in contents(copy).items() if not name.endswith(".tmp")} == contents(digits)


def test_a_missing_shard_is_named(copy: Path) -> None:
    (copy / "held-out-00001.tar").unlink()
    with pytest.raises(DataError, match=r"held-out-00001\.tar is missing: delete .*digits and build it again$"):
        build("digits", copy)


def test_a_flipped_byte_is_named_by_its_shard(copy: Path) -> None:
    data = bytearray((copy / "train-00002.tar").read_bytes())
    data[1000] ^= 1
    (copy / "train-00002.tar").write_bytes(data)
    with pytest.raises(DataError, match=r"train-00002\.tar is corrupt .*: delete .* and build it again$"):
        build("digits", copy)


@pytest.mark.parametrize("length", [0, 100, 100_000])
def test_a_truncated_shard_is_named(copy: Path, length: int) -> None:
    whole = (copy / "train-00002.tar").read_bytes()
    (copy / "train-00002.tar").write_bytes(whole[:length])
    with pytest.raises(DataError, match=rf"train-00002\.tar has {length} bytes instead of {len(whole)}"):
        verify(copy, DataManifest.load(copy))


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"format": 2}', b"\xff", b'{"format": 1, "name": "digits"}'], ids=repr
)
def test_a_damaged_manifest_is_named(copy: Path, damage: bytes) -> None:
    (copy / MANIFEST_NAME).write_bytes(damage)
    with pytest.raises(
        DataError, match=r"manifest\.json is not a data set's manifest \(.*\): delete .* and build it again$"
    ):
        build("digits", copy)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("train-00000.tar", "../train-00000.tar"),
        ("train-00000.tar", "/etc/passwd"),
        ("train-00000.tar", "train-00001.tar"),
        ('"num_samples": 125', '"num_samples": 0'),
        ('"num_samples": 125', '"num_samples": 1000000000'),
        ('"width": 8', '"width": 100000'),
    ],
)
def test_a_manifest_that_lies_is_refused(copy: Path, old: str, new: str) -> None:
    path = copy / MANIFEST_NAME
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=r"manifest\.json"):
        DataManifest.load(copy)


def test_a_manifest_survives_its_file(digits: Path, tmp_path: Path) -> None:
    manifest = DataManifest.load(digits)
    manifest.save(tmp_path)
    assert DataManifest.load(tmp_path) == manifest
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST_NAME]


def test_no_data_set_is_said_to_be_made_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.json does not exist: make the data set with `dah data build`"):
        DataManifest.load(tmp_path)


@pytest.mark.parametrize(
    ("source", "hint"),
    [("digit", "did you mean 'digits'?"), ("xyz", "name a file or folder, or one of digits, emoji")],
)
def test_an_unknown_source_names_the_nearest(source: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        build(source, tmp_path / "out")
    assert str(refused.value) == f"there is no data source {source!r}; {hint}"


@pytest.mark.parametrize("name", ["thesis.txt", "photos.tar", "train-00000.tar.bak", ".hidden"])
def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match="holds something else than a data set: choose a new folder"):
        build("digits", tmp_path)
    assert contents(tmp_path) == {name: b"mine"}


def test_a_folder_of_another_data_set_is_refused(copy: Path) -> None:
    DataManifest.load(copy).model_copy(update={"name": "emoji"}).save(copy)
    with pytest.raises(ConfigError, match="holds the data set 'emoji': choose a new folder for 'digits'"):
        build("digits", copy)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "digits"):
        with pytest.raises(StorageError, match=f"cannot write below {out} .*: choose another place"):
            build("digits", out)


def test_the_summary_counts_what_is_there(digits: Path) -> None:
    found = summarize(digits)
    assert (found.train_images, found.held_out_images) == (1501, 296)
    assert (found.train_shards, found.held_out_shards) == (13, 3)
    assert (found.sizes, found.captions) == ({"8x8": 1797}, 10)
    assert found.licenses == {"CC-BY-4.0": 1797}
    assert found.size_bytes == sum(path.stat().st_size for path in digits.glob("*.tar"))
    assert found.bytes_per_image == found.size_bytes / 1797
    assert found.digest == DataManifest.load(digits).digest


def test_the_contact_sheet_is_a_png_of_captioned_cells(digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "sheet.png"
    assert contact_sheet(digits, path, columns=4, rows=3) == 12
    with Image.open(path) as sheet:
        assert (sheet.format, sheet.mode, sheet.size) == ("PNG", "RGB", (4 * 128 + 8, 3 * 144 + 8))
        picture = sheet.crop((8, 8, 128, 128)).resize((8, 8), Image.Resampling.NEAREST)
    first = next(digit_samples(held_out=False))
    wanted = decode_images([first], (8, 8), 1)
    levels = ((wanted[0, 0] + 1) * 127.5).round().byte()
    assert list(picture.convert("L").tobytes()) == levels.flatten().tolist()


def test_a_contact_sheet_of_few_pictures_is_small(copy: Path, tmp_path: Path) -> None:
    few = write_shard(copy / "few.tar", list(digit_samples(held_out=True))[:5], (8, 8))
    DataManifest.load(copy).model_copy(update={"train": (few,)}).save(copy)
    assert contact_sheet(copy, tmp_path / "sheet.png") == 5
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (8 * 128 + 8, 144 + 8)


def test_pictures_of_another_size_than_the_manifest_says_are_named_by_shard_and_sample(copy: Path) -> None:
    entry = DataManifest.load(copy).train[0].model_copy(update={"width": 16, "height": 16})
    with pytest.raises(
        DataError, match=r"train-00000\.tar: sample digit-0000 has \(8, 8\) pixels instead of \(16, 16\)"
    ):
        read_pictures(copy, entry)
