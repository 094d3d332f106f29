from pathlib import Path

import pytest

from diffusion_at_home.errors import ConfigError
from worker.settings import Device, WorkerSettings, load_settings


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
