"""A worker proves that its machine computes right before it asks for anything; `dah worker bench` before it measures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffusion_at_home.errors import ConfigError, HardwareError, Unreachable
from tests.integration.command_line import dah
from tests.integration.live_run import serving
from tests.unit.tiny_data import tiny_run_folder
from tests.unit.tiny_run import REPOSITORY
from worker.daemon import Daemon, run_worker
from worker.device import open_device
from worker.joining import workplace
from worker.loop import Goal
from worker.progress import WorkerState, read_status
from worker.selftest.check import require_sound
from worker.selftest.devices import require_sound_apart
from worker.selftest.figures import read_known_answer
from worker.settings import Device, WorkerSettings
from worker.state_folder import StateFolder


def settings_in(root: Path) -> WorkerSettings:
    return WorkerSettings(device=Device.CPU, threads=1, state_dir=root / "state", cache_dir=root / "cache")


def require_another_answer(settings: WorkerSettings) -> None:
    """As on a card that computes wrongly: what is found is not what is known."""
    known = [replace(figure, value=1.5 * figure.value) for figure in read_known_answer()]
    require_sound(open_device(settings), known=known)


def test_a_machine_that_computes_wrongly_never_joins_the_run(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    folder = StateFolder(settings.state_dir)
    with serving(tiny_run_folder(tmp_path)) as run:
        daemon = Daemon(settings, folder, require_sound=require_another_answer)
        with pytest.raises(HardwareError, match="this processor computes wrongly: ") as refused:
            daemon.run(workplace(folder, [run.url]), Goal(leases=1, images=None))
        assert run.status()["workers"] == 0
    status = read_status(folder.status)
    assert (status.state, status.reason, status.leases_done) == (WorkerState.STOPPED, str(refused.value), 0)


def test_a_sound_machine_logs_that_it_passed_and_works(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    folder = StateFolder(settings.state_dir)
    with serving(tiny_run_folder(tmp_path)) as run:
        status = run_worker(
            settings, folder, workplace(folder, [run.url]), Goal(leases=1, images=None), lambda: settings
        )
    assert status.leases_done == 1
    events = [json.loads(line) for line in folder.log.read_text().splitlines()]
    names = [event["event"] for event in events]
    assert names.index("self_test_passed") < names.index("joined")
    passed = events[names.index("self_test_passed")]
    assert passed["devices"] == 1
    assert passed["seconds"] > 0


@pytest.mark.slow
def test_several_devices_are_checked_in_a_process_of_its_own_that_says_what_is_wrong() -> None:
    require_sound_apart(WorkerSettings(device=Device.CPU, threads=1), 2)
    if not torch.cuda.is_available():
        with pytest.raises(HardwareError, match="no CUDA device is usable here"):
            require_sound_apart(WorkerSettings(device=Device.CUDA), 2)


def bench_words(tmp_path: Path, *more: str) -> list[str | Path]:
    sets = (f"state_dir={tmp_path}", "device=cpu", "threads=1", *more)
    return ["worker", "bench", "--seconds", "0.5", *(word for setting in sets for word in ("--set", setting))]


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_bench_trains_the_run_by_its_plan_and_says_how_fast(tmp_path: Path, devices: int) -> None:
    config = REPOSITORY / "configs/digits.toml"
    found = dah(*bench_words(tmp_path, f"devices={devices}"), "--config", config, "--json").result
    assert found["plan"] == ("fp32" if devices == 1 else "fp32, 2 devices")
    assert found["steps"] >= 1
    speed, pace = found["images_per_second"], found["step_seconds"]
    assert 0 < speed["min"] <= speed["median"] <= speed["max"]
    assert speed["max"] == pytest.approx(16 / pace["min"])
    assert found["lease_seconds"] == pytest.approx(100 * pace["median"], rel=0.01)
    assert (found["planned_device_gib"], found["measured_device_gib"]) == (None, None)
    assert 0.1 < found["measured_host_gib"] < found["planned_host_gib"]


def test_bench_of_a_run_at_its_address_is_a_table(tmp_path: Path) -> None:
    with serving(tiny_run_folder(tmp_path)) as run:
        answer = dah(*bench_words(tmp_path / "state"), run.url)
        assert run.status()["workers"] == 0
    assert answer.code == 0, answer.err
    assert "tiny on" in answer.out
    assert "images per second" in answer.out
    assert "It computes right." in answer.out
    assert "on the device" not in answer.out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], ConfigError.exit_code, "name a run's address or, with --config, its config file, and not both"),
        (["--config", "no.toml", "http://127.0.0.1:9"], ConfigError.exit_code, "name a run's address or"),
        (["--config", "no.toml"], ConfigError.exit_code, "no.toml does not exist"),
        (["--config", "no.toml", "--set", "device=gpu"], ConfigError.exit_code, "device = 'gpu'"),
        (["http://127.0.0.1:9"], Unreachable.exit_code, "nobody answers at http://127.0.0.1:9"),
        (["--seconds", "soon"], 2, "Invalid value for '--seconds'"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_sentence(
    words: list[str], code: int, said: str, tmp_path: Path
) -> None:
    assert said in dah("worker", "bench", *words, cwd=tmp_path).refuses(code)
