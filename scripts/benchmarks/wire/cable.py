"""Two networks of our own, joined by one virtual cable whose bytes the kernel counts. Linux, as root."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.round.ours import Place
from diffusion_at_home.errors import DahError

_END: Final = "cable"
"""The name of either end, each in its own network."""
_COORDINATOR: Final = "10.86.0.1"
_WORKERS: Final = "10.86.0.2"


class NoCable(DahError):
    """This machine gives us no networks of our own."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the workers' end has carried since it exists, headers included."""

    sent_bytes: int
    received_bytes: int


@dataclass(frozen=True, slots=True)
class Cable:
    """Both ends are up."""

    place: Place
    """Where the coordinator and the workers run."""
    _workers_pid: int

    def traffic(self) -> Traffic:
        """Read the counters."""
        for line in Path(f"/proc/{self._workers_pid}/net/dev").read_text().splitlines():
            name, _, counters = line.partition(":")
            if name.strip() == _END:
                fields = counters.split()
                return Traffic(sent_bytes=int(fields[8]), received_bytes=int(fields[0]))
        raise NoCable(f"the interface {_END!r} is gone")


@contextmanager
def cable() -> Iterator[Cable]:
    """Make both networks; they go with the processes that hold them. Raises `NoCable`."""
    with ExitStack() as stack:
        coordinator, workers = _network(stack), _network(stack)
        place = Place(coordinator=_inside(coordinator), worker=_inside(workers), host=_COORDINATOR)
        joined = ("type", "veth", "peer", "name", _END, "netns", str(workers))
        _do(*place.coordinator, "ip", "link", "add", "name", _END, *joined)
        for words, address in ((place.coordinator, _COORDINATOR), (place.worker, _WORKERS)):
            _do(*words, "ip", "address", "add", f"{address}/30", "dev", _END)
            _do(*words, "ip", "link", "set", "dev", _END, "gso_max_segs", "1")  # or headers are counted once in 64 KiB
            _do(*words, "ip", "link", "set", "dev", _END, "up")
            _do(*words, "ip", "link", "set", "dev", "lo", "up")
        yield Cable(place, workers)


def _network(stack: ExitStack) -> int:
    """The id of a process that does nothing but hold a network of its own."""
    try:
        holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise NoCable("the command unshare is missing: this is measured on Linux only") from None
    stack.enter_context(holder)
    stack.callback(holder.kill)
    while _network_of(holder.pid) == _network_of(os.getpid()):
        if holder.poll() is not None:
            assert holder.stderr is not None
            raise NoCable(f"no network of our own ({holder.stderr.read().decode().strip()}): run this as root")
        time.sleep(0.01)
    return holder.pid


def _network_of(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def _inside(pid: int) -> tuple[str, ...]:
    return ("nsenter", f"--net=/proc/{pid}/ns/net", "--")


def _do(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoCable(f"{' '.join(words)}: {done.stderr.strip()}")
