"""Flower's rounds: a SuperLink and two SuperNodes on loopback. Runs in the peers' environment.

They are started as Flower's guide to deployment says, with their defaults and without TLS. The first round is left out.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

_NODES = 2
_LEFT_OUT = 1
"""Rounds at the start."""
_POLL_SECONDS = 0.5


def _measure(num_elements: int, rounds: int, scratch: Path) -> list[float]:
    app, home, out = scratch / "app", scratch / "home", scratch / "seconds.json"
    shutil.copytree(Path(__file__).with_name("flower_app"), app)
    home.mkdir()
    control, fleet, server_app, *nodes = [f"127.0.0.1:{port}" for port in _free_ports(3 + _NODES)]
    connection = f'address = "{control}"\ninsecure = true\n'
    (home / "config.toml").write_text(f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\n{connection}')
    environment = {**os.environ, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0"}
    with ExitStack() as stack:

        def start(*words: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(words, stdout=sys.stderr, env=environment)
            stack.callback(process.kill)
            return process

        link = ("--control-api-address", control, "--fleet-api-address", fleet, "--serverappio-api-address", server_app)
        running = [start("flower-superlink", "--insecure", *link)]
        _await(control, running)
        for node in nodes:
            words = ("--superlink", fleet, "--clientappio-api-address", node)
            running.append(start("flower-supernode", "--insecure", *words))
        settings = f'elements={num_elements} rounds={_LEFT_OUT + rounds} out="{out}"'
        subprocess.run(
            ["flwr", "run", str(app), "bench", "--run-config", settings], stdout=sys.stderr, env=environment, check=True
        )
        while not out.exists():
            assert all(process.poll() is None for process in running), "a process of Flower ended"
            time.sleep(_POLL_SECONDS)
        return [float(one) for one in json.loads(out.read_text())[_LEFT_OUT:]]


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [listening.getsockname()[1] for listening in sockets]


def _await(address: str, running: list[subprocess.Popen[bytes]]) -> None:
    host, _, port = address.partition(":")
    while True:
        assert all(process.poll() is None for process in running), "the SuperLink ended"
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            time.sleep(_POLL_SECONDS)
        else:
            return


if __name__ == "__main__":
    found = _measure(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    print(json.dumps({"seconds": found}))
