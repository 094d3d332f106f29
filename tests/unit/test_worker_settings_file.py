from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_at_home.errors import ConfigError, StorageError
from worker.control.settings_file import set_value, value_of
from worker.settings import WorkerSettings, load_settings

WRITTEN = """\
# mine
display_name = "owl"   # shown to people

cache_gib = 5.0 # the disk is small
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "worker.toml"
    path.write_text(WRITTEN)
    path.chmod(0o600)
    return path


def test_one_value_changes_and_everything_else_stays_as_it_was_written(path: Path) -> None:
    assert set_value(path, "cache_gib", "7.5").cache_gib == 7.5
    assert path.read_text() == WRITTEN.replace("5.0", "7.5")
    assert path.stat().st_mode & 0o777 == 0o600
    set_value(path, "device", "cpu")
    assert path.read_text() == WRITTEN.replace("5.0", "7.5") + 'device = "cpu"\n'


def test_a_word_needs_no_quotes_not_even_if_it_looks_like_a_number(path: Path) -> None:
    assert set_value(path, "display_name", "1337").display_name == "1337"
    assert set_value(path, "display_name", 'a "night" owl\n# [x]').display_name == 'a "night" owl\n# [x]'
    assert load_settings(path).cache_gib == 5.0


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("cache_gb", "3", "unknown key 'cache_gb'; did you mean 'cache_gib'?"),
        ("cache_gib", "-1", "cache_gib = -1"),
        ("device", "tpu", "device = 'tpu'"),
        ("cache_gib.more", "3", "is a value, not a section"),
        ("", "3", "unknown key ''"),
    ],
)
def test_what_would_not_hold_is_refused_and_nothing_is_written(path: Path, key: str, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        set_value(path, key, text)
    assert said in str(refused.value)
    assert path.read_text() == WRITTEN


def test_a_file_that_is_wrong_already_is_named(path: Path) -> None:
    path.write_text("cache_gib = \n")
    with pytest.raises(ConfigError, match=r"worker\.toml is not valid TOML"):
        set_value(path, "cache_gib", "3")


def test_the_file_is_made_where_there_is_none_and_a_link_stays_one(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles" / "worker.toml", tmp_path / "worker.toml"
    link.symlink_to(real)
    set_value(link, "threads", "2")
    assert link.is_symlink()
    assert load_settings(real).threads == 2


def test_a_file_that_cannot_be_written_is_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "no folder").write_text("")
    with pytest.raises((StorageError, ConfigError)):
        set_value(tmp_path / "no folder" / "worker.toml", "threads", "2")


def test_a_value_is_read_by_its_key() -> None:
    settings = WorkerSettings(threads=3)
    assert value_of(settings, "threads") == 3
    with pytest.raises(ConfigError, match="did you mean 'threads'"):
        value_of(settings, "thread")
