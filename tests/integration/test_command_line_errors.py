"""Each thing a person can get wrong is one sentence that says what to do, and the exit code of its kind."""

from __future__ import annotations

import json
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from coordinator.run_folder import RunFolder
from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.errors import (
    ConfigError,
    DataError,
    PortInUse,
    StorageError,
    Unreachable,
    VersionMismatch,
)
from diffusion_at_home.upgrade import told_to_worker
from tests.integration.command_line import dah
from tests.integration.scripted_coordinator import serving_page
from tests.unit.tiny_run import REPOSITORY

WRONG_COMMAND_LINE = 2
DIGITS = REPOSITORY / "configs/digits.toml"
NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens there


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits, not to be changed."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    made = dah("data", "build", "digits", folder, "--json").result
    assert (made["train_images"], made["held_out_images"]) == (1501, 296)
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new run of a tiny model, not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    small = ("model.prx.hidden_size=16", "model.prx.depth=1", "model.prx.heads=2")
    sets = [word for setting in (f"data.path='{data}'", *small) for word in ("--set", setting)]
    made = dah("coordinator", "init", folder, "--config", DIGITS, *sets, "--json").result
    assert made["run_id"].startswith("digits-")
    assert (made["images"], made["shards"]) == (1501, 13)
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bogus"], "No such command 'bogus'. See `dah --help`."),
        (["data", "buil"], "No such command 'buil'. Did you mean 'build'? See `dah data --help`."),
        (["--bogus"], "No such option: --bogus See `dah --help`."),
        (["data", "build", "--bogus"], "No such option: --bogus See `dah data build --help`."),
        (["data", "build", "digits"], "Missing argument 'OUT'. See `dah data build --help`."),
        (["checkpoint", "sample", "x", "y", "--steps", "0"], "Invalid value for '--steps': "),
        (["worker", "run", "--leases", "many"], "Invalid value for '--leases': "),
        (["coordinator", "init", "x"], "Missing option '--config'. See `dah coordinator init --help`."),
    ],
)
def test_a_wrong_command_line_says_where_help_is(words: list[str], said: str) -> None:
    assert dah(*words).refuses(WRONG_COMMAND_LINE).startswith(said)


def test_a_misspelt_key_names_the_nearest(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(DIGITS.read_text().replace("total_images", "total_imags"))
    said = dah("coordinator", "init", tmp_path / "run", "--config", config).refuses(ConfigError.exit_code)
    assert said == f"{config}: unknown key 'run.total_imags'; did you mean 'total_images'?"
    assert not (tmp_path / "run").exists()


def test_a_config_that_is_not_there_is_named(tmp_path: Path) -> None:
    said = dah("coordinator", "init", "run", "--config", "no.toml", cwd=tmp_path).refuses(ConfigError.exit_code)
    assert said == "no.toml does not exist: name a config file, for example configs/digits.toml"


def test_a_misspelt_worker_setting_names_the_nearest(tmp_path: Path) -> None:
    words = ["worker", "status", "--set", "cache_gb=1", "--state-dir", tmp_path / "state"]
    assert dah(*words).refuses(ConfigError.exit_code) == "--set: unknown key 'cache_gb'; did you mean 'cache_gib'?"


def test_an_unknown_source_names_the_nearest(tmp_path: Path) -> None:
    said = dah("data", "build", "digit", tmp_path / "out").refuses(ConfigError.exit_code)
    assert said == "there is no data source 'digit'; did you mean 'digits'?"


@pytest.mark.parametrize("damage", [pytest.param("missing", marks=pytest.mark.slow), "corrupt"])
def test_a_damaged_shard_is_named(data: Path, tmp_path: Path, damage: str) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "digits"))
    shard = copy / "train-00004.tar"
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(b"x" + shard.read_bytes()[1:])
    words = ["coordinator", "init", tmp_path / "run", "--config", DIGITS, "--set", f"data.path='{copy}'"]
    assert dah(*words).refuses(DataError.exit_code).startswith(f"shard {shard} is {damage}")
    assert dah("data", "inspect", copy).refuses(DataError.exit_code).startswith(f"shard {shard} is {damage}")
    assert not (tmp_path / "run").exists()


def test_latents_are_refused_where_the_data_are_pictures(data: Path, tmp_path: Path) -> None:
    sets = (
        f"data.path='{data}'",
        "model.latents.autoencoder='vae'",
        "model.image_size=16",
        "objective.prediction='velocity'",
    )
    words = [word for setting in sets for word in ("--set", setting)]
    said = dah("coordinator", "init", tmp_path / "run", "--config", DIGITS, *words).refuses(ConfigError.exit_code)
    assert "holds pictures: make latents of it with `dah data encode" in said


def test_data_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    said = dah("data", "inspect", "digits", cwd=tmp_path).refuses(DataError.exit_code)
    assert said == "digits/manifest.json does not exist: make the data set with `dah data build`"


@pytest.mark.parametrize(
    "words", [["worker", "join"], ["checkpoint", "list"], ["checkpoint", "download"]], ids=" ".join
)
def test_an_address_where_nobody_listens_is_named(words: list[str], tmp_path: Path) -> None:
    state = ["--state-dir", tmp_path / "state"] if words[0] == "worker" else []
    assert NOBODY in dah(*words, NOBODY, *state, cwd=tmp_path).refuses(Unreachable.exit_code)


@pytest.mark.parametrize(
    "words", [["worker", "join"], ["checkpoint", "list"], ["checkpoint", "download"]], ids=" ".join
)
def test_what_is_no_address_is_said_to_be_none(words: list[str], tmp_path: Path) -> None:
    state = ["--state-dir", tmp_path / "state"] if words[0] == "worker" else []
    said = dah(*words, "nonsense", *state, cwd=tmp_path).refuses(ConfigError.exit_code)
    assert said == "'nonsense' is not an address: give one like https://host:8400"


@pytest.mark.parametrize("theirs", [PROTOCOL_VERSION + 1, 0])
def test_another_protocol_version_says_which_side_to_upgrade(theirs: int, tmp_path: Path) -> None:
    info = {
        "run_id": "digits-00000000",
        "run": "digits",
        "protocol_version": theirs,
        "grpc_port": 1,
        "spec_sha256": "0" * 64,
    }
    with serving_page(info) as page:
        said = dah("worker", "join", page.url, "--state-dir", tmp_path).refuses(VersionMismatch.exit_code)
    assert said == f"{page.url} speaks protocol {theirs}, this software {PROTOCOL_VERSION}: {told_to_worker(theirs)}"


class _OtherSite(SimpleHTTPRequestHandler):
    """Some other web server."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def other_site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _OtherSite) as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{site.server_port}"
        site.shutdown()
        thread.join()


@pytest.mark.parametrize("words", [["worker", "join"], ["checkpoint", "list"]], ids=" ".join)
def test_an_address_of_something_else_is_said_to_be_no_run(words: list[str], tmp_path: Path, other_site: str) -> None:
    state = ["--state-dir", tmp_path / "state"] if words[0] == "worker" else []
    said = dah(*words, other_site, *state).refuses(ConfigError.exit_code)
    assert other_site in said
    assert re.search("serves no run|is .* a run's address", said)


@pytest.mark.parametrize("command", ["run", "status", "replay"])
def test_a_folder_that_is_no_run_says_how_to_make_one(command: str, tmp_path: Path) -> None:
    said = dah("coordinator", command, tmp_path).refuses(ConfigError.exit_code)
    assert str(tmp_path) in said
    assert "dah coordinator init" in said


def test_the_status_of_a_run_is_one_object(run: Path) -> None:
    found = dah("coordinator", "status", run, "--json").result
    assert (found["running"], found["version"], found["images"], found["checkpoints"]) == (False, 0, 0, [])


def test_a_run_that_is_served_is_not_served_twice(run: Path) -> None:
    with RunFolder(run).locked():
        said = dah("coordinator", "run", run).refuses(ConfigError.exit_code)
    assert re.fullmatch(rf"{run} is in use by process \d+: stop it first", said)


@pytest.mark.parametrize("key", ["http_port", "grpc_port"])
def test_a_port_in_use_is_named_with_its_setting(run: Path, key: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        ports = {"http_port": 0, "grpc_port": 0, key: port}
        words = [w for name, number in ports.items() for w in (f"--{name.replace('_', '-')}", str(number))]
        answer = dah("coordinator", "run", run, *words)
    assert answer.refuses(PortInUse.exit_code) == (
        f"port {port} on 127.0.0.1 is in use: stop what listens there or change server.{key}"
    )


def test_a_full_disk_is_said_to_be_full_and_the_build_goes_on_later(tmp_path: Path) -> None:
    said = dah("data", "build", "digits", tmp_path / "digits", largest_file=51_200).refuses(StorageError.exit_code)
    assert (
        said == f"cannot write below {tmp_path / 'digits' / 'parts'} (File too large): free some space and start again"
    )
    assert dah("data", "build", "digits", tmp_path / "digits", "--json").result["shards"] == 16


def test_a_contact_sheet_is_part_of_the_result(data: Path, tmp_path: Path) -> None:
    found = dah("data", "inspect", data, "--sheet", tmp_path / "sheet.png", "--json").result
    assert (found["train_images"], found["sheet"]) == (1501, str(tmp_path / "sheet.png"))
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_a_result_for_people_is_no_json(data: Path) -> None:
    answer = dah("data", "build", "digits", data)
    assert (answer.code, answer.err) == (0, "")
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.out.splitlines()[-1])
    assert "train images     1,501" in answer.out
