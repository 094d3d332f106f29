"""Two peers that average a vector with hivemind's DecentralizedAverager in float16. Runs in the peers' environment.

Seconds a step, from the first peer's start to the last one's end; a third process has both start together. Each peer brings
numbers of its own, and a step counts only if every element became their mean: hivemind reports success also when parts were lost.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any

_TENSORS = 20
_LEFT_OUT = 2
"""Steps at the start."""
_VALUES = (1.0, 3.0)
"""What each peer brings."""


def _peer(num_elements: int, value: float, known: list[str]) -> None:
    import hivemind  # noqa: PLC0415  (the process that starts both needs neither)
    import torch  # noqa: PLC0415

    dht = hivemind.DHT(start=True, initial_peers=known, host_maddrs=["/ip4/127.0.0.1/tcp/0"])
    averager = hivemind.averaging.DecentralizedAverager(
        [torch.full((num_elements // _TENSORS,), value) for _ in range(_TENSORS)],
        dht,
        start=True,
        prefix="bench",
        target_group_size=len(_VALUES),
        compression=hivemind.compression.Float16Compression(),
    )
    mean = sum(_VALUES) / len(_VALUES)
    _say([str(address) for address in dht.get_visible_maddrs()])
    for _ in sys.stdin:
        began = time.monotonic()
        group = averager.step(timeout=60)
        ended = time.monotonic()
        with averager.get_tensors() as tensors:
            received = sum(int((tensor - mean).abs().lt(1e-3).sum()) for tensor in tensors)
            for tensor in tensors:
                tensor.fill_(value)
        assert group is not None, "no group was found"
        assert len(group) == len(_VALUES), f"a group of {len(group)}"
        assert received == num_elements // _TENSORS * _TENSORS, f"received only {received} of {num_elements} elements"
        _say([began, ended])


def _say(message: object) -> None:
    print(json.dumps(message), flush=True)


def _measure(num_elements: int, rounds: int) -> list[float]:
    with ExitStack() as stack:
        peers: list[subprocess.Popen[str]] = []
        known: list[str] = []
        for value in _VALUES:
            words = [sys.executable, __file__, "peer", str(num_elements), str(value), *known]
            peer = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            stack.callback(peer.kill)
            peers.append(peer)
            known = [str(address) for address in _hear(peer)]
        seconds = []
        for _ in range(_LEFT_OUT + rounds):
            for peer in peers:
                assert peer.stdin is not None
                peer.stdin.write("\n")
            began, ended = zip(*[_hear(peer) for peer in peers], strict=True)
            seconds.append(max(ended) - min(began))
        return seconds[_LEFT_OUT:]


def _hear(peer: subprocess.Popen[str]) -> list[Any]:
    assert peer.stdout is not None
    line = peer.stdout.readline()
    assert line, "a peer ended"
    heard: list[Any] = json.loads(line)
    return heard


if __name__ == "__main__":
    if sys.argv[1] == "peer":
        _peer(int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
    else:
        print(json.dumps({"seconds": _measure(int(sys.argv[1]), int(sys.argv[2]))}))
