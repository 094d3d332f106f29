"""What a person names is found: a source by its name, a path by what lies there, and the settings that belong to it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from diffusion_at_home.data.build import build
from diffusion_at_home.data.build_settings import BuildSettings
from diffusion_at_home.data.sources.choose import DigitsSettings, ParquetSettings, choose
from diffusion_at_home.data.sources.folder import FolderSource
from diffusion_at_home.data.sources.webdataset import WebDatasetSource
from diffusion_at_home.errors import ConfigError
from tests.unit.picture_folder import SMALL, contents, picture, write_pictures


def write_tar(path: Path, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            for suffix, data in (("jpg", picture(number)), ("txt", f"picture number {number}".encode())):
                member = tarfile.TarInfo(f"{number:05d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def test_a_named_source_has_settings_of_its_own_that_can_be_changed() -> None:
    source, settings = choose("digits", None, ["quality=50"])
    assert (source.name, settings.base, settings.shard_samples, settings.quality) == ("digits", 8, 125, 50)
    assert isinstance(settings, DigitsSettings)


@pytest.mark.parametrize("words", ["{0}", "folder:{0}", "{0}/"])
def test_a_folder_of_pictures_is_found(tmp_path: Path, words: str) -> None:
    write_pictures(tmp_path / "sub" / "folder", 1)
    source, settings = choose(words.format(tmp_path), None, [])
    assert isinstance(source, FolderSource)
    assert type(settings) is BuildSettings


@pytest.mark.parametrize("words", ["{0}", "{0}/a.tar", "webdataset:{0}"])
def test_tars_are_found(tmp_path: Path, words: str) -> None:
    write_tar(tmp_path / "a.tar", 1)
    assert isinstance(choose(words.format(tmp_path), None, [])[0], WebDatasetSource)


def test_columns_of_a_parquet_file_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").touch()
    _, settings = choose(f"{tmp_path}", None, ["image_column='photo'", "caption_columns=['what', 'why']"])
    assert isinstance(settings, ParquetSettings)
    assert (settings.image_column, settings.caption_columns) == ("photo", ("what", "why"))


def test_a_folder_with_pictures_beside_tars_can_be_said_to_be_one(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", 1)
    write_pictures(tmp_path, 1)
    assert isinstance(choose(f"folder:{tmp_path}", None, [])[0], FolderSource)


def test_tars_are_built_whole_and_broken_ones_up_to_where_they_break(tmp_path: Path) -> None:
    write_tar(tmp_path / "tars" / "a.tar", 20)
    write_tar(tmp_path / "tars" / "b.tar", 40)
    whole = (tmp_path / "tars" / "b.tar").read_bytes()
    (tmp_path / "tars" / "b.tar").write_bytes(whole[: len(whole) // 2] + b"\1" * (len(whole) // 2))
    manifest = build(f"{tmp_path / 'tars'}", tmp_path / "out", overrides=(*SMALL, "processes=1", "duplicate_bits=-1"))
    assert 30 < manifest.num_train_images + sum(entry.num_samples for entry in manifest.held_out) < 60
    assert manifest.license == "CC0-1.0"
    assert b'"unreadable": {\n   "count": 1,' in contents(tmp_path / "out")["report.json"]


def test_settings_come_from_a_file_and_what_is_set_comes_after(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", 1)
    (tmp_path / "data.toml").write_text('base = 512\nquality = 80\nlicenses = ["CC0-1.0"]\n')
    _, settings = choose(str(tmp_path / "pictures"), tmp_path / "data.toml", ["quality=70"])
    assert (settings.base, settings.quality, settings.licenses) == (512, 70, ("CC0-1.0",))
    assert (settings.shortest_side, settings.longest_side) == (256, 1024)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("qualty=3", "--set: unknown key 'qualty'; did you mean 'quality'?"),
        ("base=100", "the base side 100 is no multiple of the step 32: change one of them"),
        ("scores=['nice']", "the score rule 'nice' does not read like"),
        ("opt_out='nowhere.txt'", "the list of opt-outs nowhere.txt cannot be read"),
        ("format='gif'", "--set: format = 'gif': "),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_written(tmp_path: Path, setting: str, sentence: str) -> None:
    write_pictures(tmp_path / "pictures", 1)
    with pytest.raises(ConfigError) as refused:
        build(str(tmp_path / "pictures"), tmp_path / "out", overrides=[setting])
    assert str(refused.value).startswith(sentence)
    assert not (tmp_path / "out").exists()


def test_another_list_of_opt_outs_is_another_setting(tmp_path: Path) -> None:
    listed = tmp_path / "list"
    listed.write_text("")
    first = BuildSettings(opt_out=listed).identity()
    listed.write_text("https://x.org/a\n")
    assert BuildSettings(opt_out=listed).identity() != first
    assert BuildSettings(processes=3).identity() == BuildSettings().identity()
