import tomllib
from pathlib import Path

import pytest

from diffusion_at_home.errors import ConfigError
from worker.settings import Device, Limits, When, WorkerSettings, load_settings


def test_shipped_settings_are_the_defaults() -> None:
    assert load_settings(Path("configs/worker.toml")) == WorkerSettings()


def test_misspelt_key_names_the_nearest_one(tmp_path: Path) -> None:
    path = tmp_path / "worker.toml"
    path.write_text("cache_gb = 3\n")
    with pytest.raises(ConfigError, match=r"worker\.toml: unknown key 'cache_gb'; did you mean 'cache_gib'\?"):
        load_settings(path)


def test_an_override_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "worker.toml"
    path.write_text('device = "cuda"\n')
    assert load_settings(path, ["device=cpu"]).device is Device.CPU


@pytest.mark.parametrize(
    "override", ["cache_gib=0", "retry_floor_seconds=0", "retry_ceiling_seconds=0.5", "threads=-1", "device=tpu"]
)
def test_value_out_of_bounds_is_refused_by_its_key(override: str) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        load_settings(Path("configs/worker.toml"), [override])


def test_the_shipped_file_names_every_setting_but_the_folders_each_with_a_comment() -> None:
    text = Path("configs/worker.toml").read_text()
    named = tomllib.loads(text)
    sections = {"when": When, "limits": Limits}
    assert list(named) == [name for name in WorkerSettings.model_fields if not name.endswith("_dir")]
    for name, section in sections.items():
        assert list(named[name]) == list(section.model_fields)
    keys = [line for line in text.splitlines() if " = " in line and not line.startswith("#")]
    assert [line for line in keys if "  # " not in line] == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("when.hours=['mon-fry 10:00-11:00']", "when.hours: 'mon-fry 10:00-11:00' names the day 'fry'"),
        ("when.hours='always'", "when.hours = 'always': input should be a valid tuple"),
        ("when.pause_for=['']", "when.pause_for.0 = '': "),
        ("when.gpu_max_celsius=8", "when: gpu_resume_celsius_below = 8 is no less than gpu_max_celsius = 8"),
        ("when.gpu_max_watts=-1", "when.gpu_max_watts = -1: "),
        ("when.on_battery=1", "when.on_battery = 1: "),
        ("when.on_batery=true", "unknown key 'when.on_batery'; did you mean 'on_battery'?"),
        ("limits.duty_percent=0", "limits.duty_percent = 0: input should be greater than or equal to 1"),
        ("limits.gpus_off=[-1]", "limits.gpus_off.0 = -1: "),
        ("limits.vram_gib=inf", "limits.vram_gib = inf: "),
        ("limits.up_gib_per_month='much'", "limits.up_gib_per_month = 'much': "),
    ],
)
def test_a_wrong_rule_is_one_sentence_that_names_its_key(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_settings(Path("configs/worker.toml"), [override])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
