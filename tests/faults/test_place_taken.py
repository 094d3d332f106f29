"""The coordinator's folder or ports are taken: one sentence that says what to do, and an exit code of its own."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from diffusion_at_home.errors import ConfigError, PortInUse
from tests.faults.processes import house
from tests.unit.tiny_data import tiny_run_folder


@pytest.mark.parametrize(("taken", "key"), [("--http-port", "server.http_port"), ("--grpc-port", "server.grpc_port")])
def test_port_in_use_is_named(tmp_path: Path, taken: str, key: str) -> None:
    folder = tiny_run_folder(tmp_path)
    with house(tmp_path) as home, socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        ports = {"--http-port": "0", "--grpc-port": "0"} | {taken: str(port)}
        options = [word for pair in ports.items() for word in pair]
        process = home.start("second", "coordinator", "run", str(folder.root), *options)
        assert process.wait() == PortInUse.exit_code
        assert f"dah: port {port} on 127.0.0.1 is in use" in process.output
        assert f"change {key}" in process.output
        assert "Traceback" not in process.output


def test_folder_in_use_is_named_with_the_process_that_holds_it(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path)
    with house(tmp_path) as home:
        first, run = home.coordinator(folder)
        second = home.start("second", "coordinator", "run", str(folder.root), "--http-port", "0", "--grpc-port", "0")
        assert second.wait() == ConfigError.exit_code
        assert f"{folder.root} is in use by process {first.pid}: stop it first" in second.output
        assert run.status()["version"] == 0
        assert folder.address.is_file()
        first.kill()
        home.coordinator(folder)
