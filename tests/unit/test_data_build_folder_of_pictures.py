"""A build of a folder: broken off anywhere it goes on to the same bytes, and nothing stops it for one picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

from diffusion_at_home.data.build import Progress, build
from diffusion_at_home.data.inspect import contact_sheet, summarize
from diffusion_at_home.data.manifest import MANIFEST_NAME, DataManifest
from diffusion_at_home.data.report import Report
from diffusion_at_home.data.shards import Sample, read_shard
from diffusion_at_home.data.sources.source import Reason
from diffusion_at_home.errors import ConfigError, DataError, StorageError
from tests.unit.picture_folder import SMALL, contents, picture, write_pictures

NUM_PICTURES = 300
"""Two units."""
ALONE = (*SMALL, "processes=1")


class Killed(Exception):
    """Stands for what ends a process."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    root = tmp_path_factory.mktemp("source") / "pictures"
    write_pictures(root, NUM_PICTURES)
    return root


@pytest.fixture(scope="module")
def built(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    folder = tmp_path_factory.mktemp("data") / "built"
    build(str(pictures), folder, overrides=ALONE)
    return folder


def samples(folder: Path) -> list[Sample]:
    manifest = DataManifest.load(folder)
    return [
        sample for entry in (*manifest.train, *manifest.held_out) for sample in read_shard(folder / entry.name, entry)
    ]


def dies_after(units: int) -> Callable[[Progress], None]:
    def show(progress: Progress) -> None:
        if progress.units == units:
            raise Killed

    return show


def test_every_picture_is_there_once_sorted_by_its_size(built: Path) -> None:
    manifest = DataManifest.load(built)
    assert {sample.caption for sample in samples(built)} == {f"picture number {n}" for n in range(NUM_PICTURES)}
    assert {entry.size for entry in manifest.train} == {(32, 32), (40, 24), (24, 40)}
    assert all(entry.num_samples <= 20 for entry in manifest.train)
    assert manifest.held_out
    assert (manifest.name, manifest.license) == ("pictures", "CC0-1.0")
    assert {sample.source for sample in samples(built)} == {"the folder pictures"}


def test_what_was_only_there_to_build_is_gone(built: Path) -> None:
    names = {path.name for path in built.iterdir() if path.suffix != ".tar"}
    assert names == {MANIFEST_NAME, "build.json", "report.json", "report.html"}


@pytest.mark.parametrize("units", [1, 2])
def test_a_build_that_is_broken_off_goes_on_to_the_same_bytes(
    pictures: Path, built: Path, tmp_path: Path, units: int
) -> None:
    with pytest.raises(Killed):
        build(str(pictures), tmp_path / "out", overrides=ALONE, show=dies_after(units))
    left = [path.stat().st_mtime_ns for path in (tmp_path / "out" / "parts").iterdir()]
    assert len(left) == 2 * units
    build(str(pictures), tmp_path / "out", overrides=ALONE)
    assert contents(tmp_path / "out") == contents(built)


def test_what_was_read_is_not_read_again(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        build(str(pictures), tmp_path / "out", overrides=ALONE, show=dies_after(1))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "parts").iterdir()}
    with pytest.raises(Killed):
        build(str(pictures), tmp_path / "out", overrides=ALONE, show=dies_after(2))
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_half_written_files_do_not_matter(pictures: Path, built: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Killed):
        build(str(pictures), out, overrides=ALONE, show=dies_after(1))
    for path in (out / "parts" / "000001.pictures.123.tmp", out / "train-00000.tmp", out / "manifest.tmp"):
        path.write_bytes(b"half")
    (out / "parts" / "000001.pictures").write_bytes(b"without its index")
    build(str(pictures), out, overrides=ALONE)
    assert contents(out) == contents(built)


def test_parts_that_a_killed_build_could_not_delete_go_with_the_next_one(
    pictures: Path, built: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    build(str(pictures), out, overrides=ALONE)
    (out / "parts").mkdir()
    (out / "parts" / "000000.json").write_text("{")
    build(str(pictures), out, overrides=ALONE)
    assert contents(out) == contents(built)


@pytest.mark.parametrize("units", [1, None], ids=["unfinished", "complete"])
def test_another_setting_is_refused_and_named(pictures: Path, tmp_path: Path, units: int | None) -> None:
    out = tmp_path / "out"
    if units is None:
        build(str(pictures), out, overrides=ALONE)
    else:
        with pytest.raises(Killed):
            build(str(pictures), out, overrides=ALONE, show=dies_after(units))
    with pytest.raises(ConfigError) as refused:
        build(str(pictures), out, overrides=(*ALONE, "quality=50"))
    assert (
        str(refused.value)
        == f"{out} was begun with quality = 90 instead of 50: choose a new folder, or delete this one"
    )


def test_another_source_is_refused(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    other = tmp_path / "other" / "pictures"
    write_pictures(other, 5)
    with pytest.raises(Killed):
        build(str(pictures), out, overrides=ALONE, show=dies_after(1))
    with pytest.raises(ConfigError, match="was begun with the source before files were added or taken away"):
        build(str(other), out, overrides=ALONE)


def test_the_number_of_processes_is_no_other_setting(pictures: Path, built: Path) -> None:
    before = contents(built)
    build(str(pictures), built, overrides=(*SMALL, "processes=7"))
    assert contents(built) == before


def test_two_builds_in_one_folder_are_refused(pictures: Path, tmp_path: Path) -> None:
    with filelock.FileLock(tmp_path / "build.lock"), pytest.raises(ConfigError, match="another build is at work"):
        build(str(pictures), tmp_path, overrides=ALONE)


def test_pictures_that_cannot_be_used_are_counted_and_the_others_go_in(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_pictures(source, 30)
    (source / "broken.jpg").write_bytes(picture(100)[:200])
    (source / "broken.txt").write_text("x")
    (source / "text.png").write_text("<svg></svg>")
    (source / "text.txt").write_text("x")
    (source / "silent.jpg").write_bytes(picture(101))
    (source / "twice.jpg").write_bytes(picture(3, quality=80))
    (source / "twice.txt").write_text("number 3 again")
    build(str(source), tmp_path / "out", overrides=ALONE)
    report = Report.load(tmp_path / "out")
    assert report is not None
    assert {reason: [e.name for e in of.examples] for reason, of in report.refused.items()} == {
        Reason.UNREADABLE: ["broken.jpg", "text.png"],
        Reason.NO_CAPTION: ["silent.jpg"],
        Reason.DUPLICATE: ["twice.jpg"],
    }
    assert (report.pictures, report.train_images + report.held_out_images) == (34, 30)
    assert len(samples(tmp_path / "out")) == 30


def test_licences_authors_and_several_captions_stay_with_the_picture(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_pictures(source, 3)
    lines = [
        {"file_name": "p00000.jpg", "text": ["one", "two"], "license": "CC-BY-4.0", "author": "Ada", "url": "http://a"},
        {"file_name": "p00001.jpg", "text": "three", "license": "CC-BY-NC-4.0"},
    ]
    (source / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    allowed = "licenses=['cc-by-4.0', 'CC0-1.0']"
    manifest = build(str(source), tmp_path / "out", overrides=(*ALONE, allowed, "held_out_share=0"))
    found = {sample.caption: sample for sample in samples(tmp_path / "out")}
    assert set(found) == {"picture number 0", "picture number 2"}
    one = found["picture number 0"]
    assert one.further_captions == ("one", "two")
    assert (one.license, one.author, one.source) == ("CC-BY-4.0", "Ada", "http://a")
    assert manifest.license == "various"


def test_when_nothing_can_be_used_the_report_says_why(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.jpg").write_bytes(b"x")
    (source / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"no picture of the folder source can be used: .*report\.json says why"):
        build(str(source), tmp_path / "out", overrides=ALONE)
    report = Report.load(tmp_path / "out")
    assert report is not None
    assert list(report.refused) == [Reason.UNREADABLE]


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("empty", "holds neither pictures nor .tar or .parquet files"),
        ("folder:empty", "holds no pictures"),
        ("nowhere/at/all", "does not exist: name a file or folder, or one of digits"),
        ("folder:nowhere", "nowhere does not exist: name a file or folder"),
    ],
)
def test_a_place_without_pictures_is_refused(
    tmp_path: Path, place: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    with pytest.raises((ConfigError, DataError), match=sentence):
        build(place, Path("out"))
    assert not Path("out").exists()


def test_a_file_in_the_place_of_the_parts_is_named(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "parts").write_text("mine")
    with pytest.raises(StorageError, match="choose another place"):
        build(str(pictures), tmp_path, overrides=ALONE)


def test_progress_is_told_unit_by_unit(pictures: Path, tmp_path: Path) -> None:
    told = list[Progress]()
    build(str(pictures), tmp_path, overrides=ALONE, show=told.append)
    assert told == [Progress(1, 2, 256, 0), Progress(2, 2, NUM_PICTURES, 0)]


def test_a_build_is_inspected_bucket_by_bucket(built: Path, tmp_path: Path) -> None:
    found = summarize(built)
    assert found.sizes == {"32x32": 100, "40x24": 100, "24x40": 100}
    assert contact_sheet(built, tmp_path / "sheet.png", columns=4, rows=3) == 12
