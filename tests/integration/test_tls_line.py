"""Workers and downloaders of a run that shows its own certificate, over real sockets; and somebody in between."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import grpc
import pytest

from coordinator.backup import back_up
from coordinator.restore import restore
from coordinator.run_folder import RunFolder
from tests.faults.processes import house
from tests.integration.command_line import dah
from tests.integration.live_run import DEADLINE_SECONDS, LiveRun, Volunteer, serving
from tests.integration.test_ways_to_the_run import connect_proxy
from tests.unit.test_tls import own, server
from tests.unit.tiny_data import tiny_run_folder

SHORT = ("lease.probe_steps=2", "evaluation.every_images=64", "checkpoint.every_images=64", "server.tls='own'")


@pytest.fixture
def run_folder(tmp_path: Path) -> RunFolder:
    return tiny_run_folder(tmp_path, *SHORT)


def test_a_worker_trains_and_a_downloader_downloads_by_the_runs_address_alone(
    run_folder: RunFolder, tmp_path: Path
) -> None:
    with serving(run_folder) as run, house(tmp_path) as home:
        assert run.address == f"{run.url}/#{run.pin}"
        assert run.url.startswith("https://")
        worker = home.worker_at("worker", [run.address], "--images", "128")
        assert worker.wait() == 0, worker.output
        wait_for_checkpoint(run)
        listed = dah("checkpoint", "list", run.address, "--json").result
        assert listed["checkpoints"]
        dah("checkpoint", "download", run.address, "--out", tmp_path / "checkpoint", "--json")
        found = dah("worker", "doctor", run.address, "--json").result
        assert {check["name"]: check["state"] for check in found["checks"]}["grpc"] == "fine"


def wait_for_checkpoint(run: LiveRun) -> None:
    deadline, pause = time.monotonic() + 120, threading.Event()
    while not run.status()["checkpoints"]:
        assert time.monotonic() < deadline, "no checkpoint comes"
        pause.wait(0.2)


def test_a_worker_goes_through_a_proxy_that_sees_nothing(run_folder: RunFolder, tmp_path: Path) -> None:
    with serving(run_folder) as run, connect_proxy() as proxy, house(tmp_path) as home:
        environment = {"HTTPS_PROXY": proxy.url}
        worker = home.worker_at("worker", [run.address], "--leases", "1", environment=environment)
        assert worker.wait() == 0, worker.output
    assert {request.partition(" ")[0] for request in proxy.requests} == {"CONNECT"}


def test_somebody_in_between_is_refused_by_name(run_folder: RunFolder, tmp_path: Path) -> None:
    with serving(run_folder) as run, server(own(tmp_path / "thief")) as port:
        there = f"https://127.0.0.1:{port}/#{run.pin}"
        for command in (["worker", "join", there], ["checkpoint", "list", there], ["worker", "plan", there]):
            assert "somebody stands between" in dah(*command, cwd=tmp_path).refuses(11)


def test_who_speaks_in_plain_text_hears_nothing(run_folder: RunFolder) -> None:
    with serving(run_folder) as run:
        volunteer = Volunteer(run)
        with pytest.raises(grpc.RpcError) as refused:
            volunteer.stub.Join(volunteer.join_request(), timeout=DEADLINE_SECONDS)
        volunteer.channel.close()
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_the_certificate_moves_with_the_run(run_folder: RunFolder, tmp_path: Path) -> None:
    with serving(run_folder) as run:
        pin = run.pin
    back_up(run_folder, RunFolder(tmp_path / "backup"))
    moved = RunFolder(tmp_path / "moved")
    restore(RunFolder(tmp_path / "backup"), moved)
    assert (moved.tls / "key.pem").stat().st_mode & 0o077 == 0
    with serving(moved) as run:
        assert run.pin == pin
        assert json.loads(run.get("/run.json").text)["certificate"] == (moved.tls / "certificate.pem").read_text()
