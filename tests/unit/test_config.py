"""Every mistake in a settings file is one sentence that names the key, and every key says what it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from diffusion_at_home.checkpoint.listing import CheckpointListing
from diffusion_at_home.checkpoint.manifest import CheckpointManifest
from diffusion_at_home.config.run import InnerKind, OuterKind, RunConfig
from diffusion_at_home.config.toml import Section, load_toml, parse
from diffusion_at_home.data.build_settings import BuildSettings
from diffusion_at_home.data.manifest import DataManifest
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.runinfo import RunInfo
from diffusion_at_home.runspec import RunSpec
from tests.unit.tiny_run import REPOSITORY, tiny_config
from worker.settings import WorkerSettings

SHIPPED = sorted((REPOSITORY / "configs").glob("*.toml"))
DATA_SETTINGS = sorted((REPOSITORY / "configs" / "data").glob("*.toml"))
DIGITS = REPOSITORY / "configs/digits.toml"
SCHEMAS = (RunConfig, WorkerSettings, DataManifest, CheckpointManifest, CheckpointListing, RunInfo, RunSpec)


def refusal(*overrides: str, path: Path | None = DIGITS) -> str:
    """What is said about a config that is wrong."""
    with pytest.raises(ConfigError) as refused:
        load_toml(path, RunConfig, overrides)
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("path", SHIPPED, ids=[path.name for path in SHIPPED])
def test_every_shipped_config_loads(path: Path) -> None:
    load_toml(path, WorkerSettings if path.name == "worker.toml" else RunConfig)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("rum.name='x'", "unknown key 'rum'; did you mean 'run'?"),
        ("run.total_imags=5", "unknown key 'run.total_imags'; did you mean 'total_images'?"),
        ("model.text.max_token=5", "unknown key 'model.text.max_token'; did you mean 'max_tokens'?"),
        ("codec.zzz=1", "unknown key 'codec.zzz'; known keys are delta, feedback, update"),
    ],
)
def test_a_misspelt_key_is_named_with_the_nearest_real_one(override: str, sentence: str) -> None:
    assert refusal(override).endswith(sentence)


def test_a_missing_key_is_named_with_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(re.sub("total_images = .*\n", "", DIGITS.read_text()))
    said = refusal(path=path)
    assert said == f"{path}: key 'run.total_images' is missing (Images after which the run is complete)"


def test_a_missing_section_is_named() -> None:
    assert (
        refusal("run.name='x'", path=None)
        == "--set: key 'run.total_images' is missing (Images after which the run is complete)"
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("round.images='many'", "round.images = 'many': input should be a valid integer"),
        ("round.images=0", "round.images = 0: input should be greater than 0"),
        ("round=3", "'round' must be a section of keys, not 3"),
        ("run.name='My Run'", "lower-case letters, digits"),
        ("model.kind='dit'", "model.kind = 'dit': input should be 'prx' or 'unet'"),
        ("inner.learning_rate=nan", "inner.learning_rate = nan: input should be"),
        ("inner.beta2=1.0", "inner.beta2 = 1.0: input should be less than 1"),
        ("inner.optimizer='sgd'", "input should be 'adamw8bit', 'adamw', 'muon' or 'gradient'"),
        ("checkpoint.grid_prompts=['a', 3]", "checkpoint.grid_prompts.1 = 3: input should be a valid string"),
        ("server.http_port=70000", "server.http_port = 70000: input should be less than or equal to 65535"),
    ],
)
def test_a_wrong_value_is_named_by_its_key(override: str, said: str) -> None:
    assert said in refusal(override)


def test_a_long_wrong_value_is_cut_short() -> None:
    assert len(refusal(f"round.images='{'9' * 10_000}x'")) < 300


@pytest.mark.parametrize(
    ("overrides", "key_to_change"),
    [
        (["model.image_size=9"], "model.prx.patch_size"),
        (["model.prx.heads=5"], "model.prx.heads"),
        (["lease.min_steps=60", "lease.max_steps=59"], "lease.min_steps"),
        (["lease.timeout_seconds=1.5"], "lease.timeout_seconds"),
        ([f"inner.optimizer='{InnerKind.GRADIENT.value}'"], "inner.optimizer"),
        ([f"outer.optimizer='{OuterKind.ADAMW.value}'"], "inner.optimizer"),
        (["codec.delta='sparse'"], "codec.feedback"),
        (["inner.batch_images=32", "lease.min_steps=40", "round.images=1279"], "round.images"),
        (["run.total_images=1000", "schedule.warmup_images=100", "schedule.decay_images=901"], "schedule.decay_images"),
    ],
)
def test_settings_that_contradict_each_other_name_the_one_to_change(overrides: list[str], key_to_change: str) -> None:
    said = refusal(*overrides)
    assert key_to_change in said.rpartition(": ")[2].rpartition("; ")[2]


def test_the_least_that_fits_together_is_accepted() -> None:
    load_toml(DIGITS, RunConfig, ["inner.batch_images=32", "lease.min_steps=40", "round.images=1280"])
    load_toml(DIGITS, RunConfig, ["run.total_images=1000", "schedule.warmup_images=100", "schedule.decay_images=900"])
    load_toml(DIGITS, RunConfig, ["inner.optimizer='gradient'", "outer.optimizer='adamw'"])


@pytest.mark.parametrize(
    ("override", "name"), [("run.name='other'", "other"), ("run.name=other", "other"), (" run.name =other", "other")]
)
def test_an_override_is_toml_or_a_bare_word(override: str, name: str) -> None:
    assert load_toml(DIGITS, RunConfig, [override]).run.name == name


def test_the_last_override_wins() -> None:
    assert load_toml(DIGITS, RunConfig, ["run.seed=1", "run.seed=2"]).run.seed == 2


@pytest.mark.parametrize("override", ["run.seed", "=3", ""])
def test_an_override_without_key_or_value_is_refused(override: str) -> None:
    assert refusal(override) == f"--set {override!r} must look like section.key=value"


def test_an_override_below_a_value_is_refused() -> None:
    assert refusal("run.name.deep=1") == "--set 'run.name.deep=1': 'name' is a value, not a section"


def test_what_an_override_breaks_is_not_blamed_on_the_file_alone() -> None:
    assert refusal("run.seed=-1").startswith(f"{DIGITS} with --set: run.seed = -1")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken, binary = tmp_path / "broken.toml", tmp_path / "binary.toml"
    broken.write_text("[run\n")
    binary.write_bytes(b"\xff\xfe")
    assert f"{tmp_path / 'none.toml'} does not exist" in refusal(path=tmp_path / "none.toml")
    assert f"{broken} is not valid TOML" in refusal(path=broken)
    assert f"{binary} cannot be read" in refusal(path=binary)
    assert f"{tmp_path} cannot be read" in refusal(path=tmp_path)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        tiny_config().run.seed = 5


def test_a_config_survives_its_json() -> None:
    config = tiny_config()
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_parsed_data_names_its_source() -> None:
    with pytest.raises(ConfigError, match=r"^the run at http://x: key 'run' is missing$"):
        parse({}, RunConfig, source="the run at http://x")


def fields(schema: type[BaseModel], prefix: str) -> Iterator[tuple[str, str | None]]:
    """Every field below `schema` that is not a section itself, with what it says of itself."""
    for name, field in schema.model_fields.items():
        types = (field.annotation, *get_args(field.annotation))
        section = next((t for t in types if isinstance(t, type) and issubclass(t, Section)), None)
        if section is None:
            yield f"{prefix}.{name}", field.description
        else:
            yield from fields(section, f"{prefix}.{name}")


@pytest.mark.parametrize("schema", SCHEMAS, ids=[schema.__name__ for schema in SCHEMAS])
def test_every_field_says_what_it_is(schema: type[Section]) -> None:
    assert [name for name, description in fields(schema, schema.__name__) if not description] == []


@pytest.mark.parametrize("text", ["inner.batch_images='128'", "inner.batch_images=true", "round.quorum='0.5'"])
def test_a_number_is_a_number_and_not_a_word_that_looks_like_one(text: str) -> None:
    assert text.partition("=")[0] in refusal(text)


def test_a_whole_number_will_do_where_a_fraction_may_stand() -> None:
    assert load_toml(DIGITS, RunConfig, ["round.quorum=1"]).round.quorum == 1.0


@pytest.mark.parametrize("path", DATA_SETTINGS, ids=[path.name for path in DATA_SETTINGS])
def test_every_shipped_file_of_build_settings_loads(path: Path) -> None:
    load_toml(path, BuildSettings).picture_rules()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f"a = {'[' * 3000}", "nested too deeply"),
        (f"a = {'9' * 5000}", "is not valid TOML"),
        (f"{'k' * 5000} = 1", "unknown key 'kkk"),
    ],
)
def test_a_file_that_no_person_has_written_is_still_one_short_sentence(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    sentence = refusal(path=path)
    assert named in sentence
    assert len(sentence) < 1500


def test_a_number_too_long_to_write_down_is_named_all_the_same() -> None:
    assert "inner.learning_rate = a number of thousands of digits" in refusal(f"inner.learning_rate=0x{'f' * 5000}")


@pytest.mark.parametrize(
    "override",
    [
        "model.prx.depth=2147483648",
        "model.prx.hidden_size=4611686018427387904",
        "model.prx.mlp_ratio=1e300",
        "model.text.layers=1025",
        "model.text.max_tokens=1048577",
        f"model.unet.channels={[32] * 17}",
        "inner.batch_images=1048577",
    ],
)
def test_a_run_that_no_machine_could_build_is_refused_before_it_is_tried(override: str) -> None:
    assert override.partition("=")[0] in refusal(override)


def test_shipped_configs_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_toml(Path("configs/digits.toml"), RunConfig) == load_toml(DIGITS, RunConfig)
    with pytest.raises(ConfigError, match=r"^configs/none.toml does not exist"):
        load_toml(Path("configs/none.toml"), RunConfig)
