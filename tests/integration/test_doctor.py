"""The doctor on a real run, and on all that may stand where a run should be."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import closing, contextmanager
from datetime import timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.clock import Clock, ManualClock, SystemClock
from diffusion_at_home.config.run import Codec
from diffusion_at_home.doctor import Check, State
from diffusion_at_home.errors import (
    ConfigError,
    DataError,
    HardwareError,
    IntegrityError,
    LeaveRun,
    RetryCall,
    StorageError,
    Unreachable,
    VersionMismatch,
)
from diffusion_at_home.runinfo import RunInfo
from diffusion_at_home.runspec import RunSpec
from diffusion_at_home.upgrade import upgrade_here
from diffusion_at_home.wire.vector import size_bounds
from tests.integration.command_line import Answer, dah
from tests.integration.live_run import LiveRun, num_parameters, serving
from tests.integration.scripted_coordinator import Scripted
from tests.integration.scripted_coordinator import serving as serving_grpc
from tests.unit.tiny_data import tiny_run_folder
from worker.doctor.coordinator import NAMES, Visit
from worker.doctor.deadline import Deadline
from worker.run_address import RunAddress
from worker.whereabouts import Workplace

MACHINE = ("device", "vram", "ram", "cores", "state_dir", "cache_dir", "key")
NOBODY = "http://127.0.0.1:9"
CPU = ("--set", "device=cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRun]:
    with serving(tiny_run_folder(tmp_path_factory.mktemp("run"))) as run:
        yield run


def visit(
    url: str,
    run_id: str = "",
    *,
    seconds: float = 60,
    wall_seconds: Callable[[], float] = time.time,
    timeout_seconds: float = 10,
    clock: Clock | None = None,
) -> dict[str, Check]:
    """What is found at `url`, by name; `clock` measures what the visit itself measures."""
    with httpx2.Client(timeout=timeout_seconds, verify=False) as http:
        found = Visit(
            place=Workplace((RunAddress.parse(url),), run_id),
            http=http,
            deadline=Deadline(timedelta(seconds=seconds), SystemClock()),
            clock=clock or SystemClock(),
            wall_seconds=wall_seconds,
        ).checks()
    assert [check.name for check in found] == list(NAMES)
    return {check.name: check for check in found}


# -- a run that is well -----------------------------------------------------------------------------------------------


def test_a_run_that_is_well_is_fine_in_every_line(run: LiveRun) -> None:
    found = visit(run.url)
    assert {check.state for check in found.values()} == {State.FINE}, found
    assert found["http"].found.endswith(f" at {run.url}, protocol {PROTOCOL_VERSION}")
    assert found["grpc"].found.startswith(f"{run.grpc_target} serves, round trip ")
    size = f"{size_bounds(Codec.INT8, num_parameters(run.folder))[1] / 1e3:.1f} kB"
    assert f"Mbit/s: a contribution of up to {size} takes less than 1 s" in found["line_up"].found
    assert "Mbit/s: an update of up to " in found["line_down"].found


def test_a_run_says_how_large_its_model_is(run: LiveRun) -> None:
    info = RunInfo.model_validate_json(run.get("/run.json").content)
    assert info.num_parameters == num_parameters(run.folder)


def test_another_run_at_the_address_of_the_joined_one_is_a_problem(run: LiveRun) -> None:
    check = visit(run.url, "digits-00000000")["http"]
    assert (check.state, check.kind, check.advice) == (State.PROBLEM, LeaveRun, f"dah worker join {run.url}")


def test_time_that_runs_out_skips_what_is_left(run: LiveRun) -> None:
    clock = ManualClock()
    deadline = Deadline(timedelta(seconds=10), clock)

    def wall_seconds() -> float:
        clock.advance(5)  # asked twice for the line of the clock
        return time.time()

    with httpx2.Client(verify=False) as http:
        place = Workplace((RunAddress(run.url),))
        looked = Visit(place=place, http=http, deadline=deadline, clock=clock, wall_seconds=wall_seconds).checks()
    assert looked[0].state is State.FINE
    assert [(check.state, check.found) for check in looked[1:]] == [
        (State.SKIPPED, "the coordinator is too slow for more questions")
    ] * 5


# -- nobody, or somebody who is silent --------------------------------------------------------------------------------


def only_problem(found: dict[str, Check], name: str) -> Check:
    """The problem `name`, all other lines being skipped."""
    others = {check.state for other, check in found.items() if other != name}
    assert (found[name].state, others) == (State.PROBLEM, {State.SKIPPED}), found
    return found[name]


def test_nobody_there_is_one_problem_and_the_rest_is_skipped() -> None:
    found = visit(NOBODY)
    assert only_problem(found, "http").kind is Unreachable
    assert found["line_up"].found == f"no run was found at {NOBODY}"


@contextmanager
def silent() -> Iterator[int]:
    """A port that accepts and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


def test_a_coordinator_that_never_answers_is_a_problem_within_its_time() -> None:
    with silent() as port:
        patient = only_problem(visit(f"http://127.0.0.1:{port}", timeout_seconds=60, seconds=0.3), "http")
        hasty = only_problem(visit(f"http://127.0.0.1:{port}", timeout_seconds=0.3), "http")
    assert patient.found == "no answer within 0 s"
    assert hasty.found == f"nobody answers at http://127.0.0.1:{port}"
    assert patient.kind is hasty.kind is Unreachable


# -- a site that is told what to say ----------------------------------------------------------------------------------


class Site(ThreadingHTTPServer):
    """A run's pages, each of which may be wrong."""

    daemon_threads = True

    def __init__(self, spec: bytes, grpc_port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.spec = spec
        self.ahead_seconds = 0.0
        self.passes_range = True
        self.lies_in_ranges = False
        self.has_blobs = True
        self.drips = threading.Event()
        self.line_test_status = 404
        self.info: dict[str, Any] = {
            "run_id": RunSpec.from_bytes(spec).run_id,
            "run": "tiny",
            "protocol_version": PROTOCOL_VERSION,
            "grpc_port": grpc_port,
            "spec_sha256": RunSpec.from_bytes(spec).sha256,
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Page(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        if self.path == "/run.json" and self.server.drips.is_set():
            self.drip()
        elif self.path == "/run.json":
            self.say(200, json.dumps(self.server.info).encode())
        elif self.path.startswith("/blobs/"):
            self.say_blob()
        else:
            self.say(self.server.line_test_status, b"")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.say(self.server.line_test_status, b"")

    def say_blob(self) -> None:
        place, spec = self.headers.get("Range"), self.server.spec
        if not self.server.has_blobs:
            self.say(404, b"no such blob")
            return
        if place is None or not self.server.passes_range:
            self.say(200, spec)
            return
        start = int(place.removeprefix("bytes=").removesuffix("-"))
        tail = bytes(len(spec) - start) if self.server.lies_in_ranges else spec[start:]
        self.say(206, tail, **{"Content-Range": f"bytes {start}-{len(spec) - 1}/{len(spec)}"})

    def drip(self) -> None:
        self.send_response(200)
        self.end_headers()
        pause = threading.Event()
        while self.server.drips.is_set():
            try:
                self.wfile.write(b" ")
            except OSError:
                return
            pause.wait(0.02)

    def say(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate((timestamp or time.time()) + self.server.ahead_seconds, usegmt=True)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def site(run: LiveRun) -> Iterator[Site]:
    """Its specification and its gRPC port are those of the real run."""
    info = run.get("/run.json").json()
    with Site(run.get(f"/blobs/{info['spec_sha256']}").content, info["grpc_port"]) as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield site
        site.drips.clear()
        site.shutdown()
        thread.join()


def test_a_coordinator_without_a_line_test_is_fine_and_the_line_is_skipped(site: Site) -> None:
    found = visit(site.url)
    assert [found[name].state for name in NAMES] == [State.FINE] * 4 + [State.SKIPPED] * 2
    assert found["line_up"].found == "this coordinator is too old to measure lines"


@pytest.mark.parametrize(
    ("ahead_seconds", "state", "found"),
    [
        (-3600.0, State.WARNING, "3600 s ahead of the coordinator"),
        (3600.0, State.WARNING, "3600 s behind the coordinator"),
        (-100_000.0, State.WARNING, "100000 s ahead of the coordinator"),
        (100_000.0, State.WARNING, "100000 s behind the coordinator"),
        (30.0, State.FINE, "within 30 s of the coordinator"),
    ],
)
def test_a_clock_that_is_wrong_is_to_be_set(site: Site, ahead_seconds: float, state: State, found: str) -> None:
    site.ahead_seconds = ahead_seconds
    now = float(int(time.time()))
    check = visit(site.url, wall_seconds=time.time)["clock"]
    assert check.state is state
    assert abs(seconds_in(check.found) - seconds_in(found)) <= 1 + time.time() - now
    assert check.found.partition(" s ")[2] == found.partition(" s ")[2]
    assert ("time synchronisation" in check.advice) == (state is not State.FINE)


def seconds_in(found: str) -> float:
    return float(found.removeprefix("within ").partition(" ")[0])


def test_a_coordinator_that_drips_is_a_problem_within_its_time(site: Site) -> None:
    site.drips.set()
    assert only_problem(visit(site.url, seconds=0.5), "http").kind is Unreachable


@pytest.mark.parametrize(
    ("change", "kind", "advice"),
    [
        ({"protocol_version": PROTOCOL_VERSION + 1}, VersionMismatch, f"upgrade this software with `{upgrade_here()}`"),
        ({"run_id": "?"}, ConfigError, "check the address"),
    ],
)
def test_what_is_no_run_for_us_is_a_problem_of_its_kind(
    site: Site, change: dict[str, Any], kind: type[Exception], advice: str
) -> None:
    site.info |= change
    check = only_problem(visit(site.url), "http")
    assert (check.kind, check.advice) == (kind, advice)


def test_downloads_that_cannot_go_on_are_a_warning(site: Site) -> None:
    site.passes_range = False
    check = visit(site.url)["blobs"]
    assert check.state is State.WARNING
    assert "Range" in check.advice


def test_a_part_of_a_download_that_is_not_of_it_is_a_problem(site: Site) -> None:
    site.lies_in_ranges = True
    check = visit(site.url)["blobs"]
    assert (check.state, check.kind) == (State.PROBLEM, IntegrityError)
    assert check.found.startswith("a part of")


def test_a_specification_that_is_not_served_is_a_problem(site: Site) -> None:
    site.has_blobs = False
    check = visit(site.url)["blobs"]
    assert (check.state, check.kind) == (State.PROBLEM, Unreachable)
    assert check.found.startswith("HTTP 404 when asked")


class Leaping:
    """A clock by which everything takes long."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        self._now += 3.0
        return self._now


def test_a_download_that_takes_too_long_is_a_warning_and_no_proof_of_anything(site: Site) -> None:
    site.spec += b" "
    check = visit(site.url, clock=Leaping())["blobs"]
    assert (check.state, check.advice) == (State.WARNING, "this line is too slow to tell more")


def test_a_specification_that_is_not_what_was_announced_is_a_problem(site: Site) -> None:
    site.spec += b" "
    check = visit(site.url)["blobs"]
    assert (check.state, check.kind, check.advice) == (State.PROBLEM, IntegrityError, "do not join it")


def test_a_specification_of_another_run_is_a_problem(site: Site) -> None:
    site.info |= {"run_id": "tiny-ffffffff"}
    check = visit(site.url)["blobs"]
    assert (check.state, check.kind) == (State.PROBLEM, LeaveRun)


def test_a_specification_that_does_not_parse_is_a_problem(site: Site) -> None:
    site.spec = b"{}"
    site.info |= {"spec_sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}  # of {}
    check = visit(site.url)["blobs"]
    assert (check.state, check.kind, check.advice) == (State.PROBLEM, DataError, "upgrade")


@pytest.mark.parametrize(
    ("status", "state", "said"), [(503, State.SKIPPED, "others are measuring"), (500, State.WARNING, "HTTP 500")]
)
def test_a_line_that_cannot_be_measured_is_no_problem(site: Site, status: int, state: State, said: str) -> None:
    site.line_test_status = status
    found = visit(site.url)
    for name in ("line_down", "line_up"):
        assert found[name].state is state
        assert said in found[name].found


def test_a_worker_port_where_nobody_is_names_the_port(site: Site) -> None:
    site.info |= {"grpc_port": 9}
    found = visit(site.url)
    check = found["grpc"]
    assert (check.state, check.kind, check.found) == (State.PROBLEM, Unreachable, "nobody answers at 127.0.0.1:9")
    assert check.advice.startswith("let port 9 out through your firewall")
    assert found["blobs"].state is State.FINE


def test_a_worker_port_that_never_answers_is_a_problem_within_its_time(site: Site) -> None:
    with silent() as port:
        site.info |= {"grpc_port": port}
        check = visit(site.url, seconds=1)["grpc"]
    assert (check.state, check.kind) == (State.PROBLEM, Unreachable)


def test_a_worker_port_without_a_health_check_is_a_problem(site: Site) -> None:
    with serving_grpc(Scripted()) as place:
        site.info |= {"grpc_port": place.port}
        check = visit(site.url)["grpc"]
    assert (check.state, check.kind) == (State.PROBLEM, RetryCall)
    assert "UNIMPLEMENTED" in check.found


def test_a_worker_port_that_does_not_serve_is_a_problem(site: Site) -> None:
    health = HealthServicer()
    health.set("", HealthCheckResponse.NOT_SERVING)
    server = grpc.server(futures.ThreadPoolExecutor(1))
    add_HealthServicer_to_server(health, server)
    site.info |= {"grpc_port": server.add_insecure_port("127.0.0.1:0")}
    server.start()
    check = visit(site.url)["grpc"]
    server.stop(None).wait()
    assert (check.state, check.kind, check.advice) == (State.PROBLEM, Unreachable, "try again later")


def test_a_slow_line_to_a_large_model_is_a_warning(site: Site) -> None:
    site.line_test_status = 204
    site.info |= {"num_parameters": 10**13}
    check = visit(site.url)["line_up"]
    assert (check.state, check.advice.startswith("find a faster line: a round of this run takes at most")) == (
        State.WARNING,
        True,
    )


# -- the command ------------------------------------------------------------------------------------------------------


def doctor(*words: str | Path, code: int = 0) -> dict[str, Any]:
    """What --json prints, by name."""
    answer = dah("worker", "doctor", *words, *CPU, "--json")
    assert (answer.code, answer.err) == (code, ""), answer
    result = json.loads(answer.out.splitlines()[-1])
    assert [check["name"] for check in result["checks"]] == [*MACHINE, *NAMES]
    assert result["fit"] == (code == 0)
    return {check["name"]: check for check in result["checks"]}


def test_the_command_answers_for_an_address_and_for_the_joined_run(run: LiveRun, tmp_path: Path) -> None:
    state = ("--state-dir", tmp_path / "state")
    found = doctor(*state)
    assert {found[name]["found"] for name in NAMES} == {"no run has been joined yet: name its address"}
    assert {found[name]["state"] for name in NAMES} == {"skipped"}
    found = doctor(run.url, *state)
    assert {found[name]["state"] for name in NAMES} == {"fine"}, found
    assert found["key"]["found"].startswith("none yet")
    assert dah("worker", "join", run.url, *state, *CPU).code == 0
    found = doctor(*state)
    assert {found[name]["state"] for name in NAMES} == {"fine"}, found
    assert found["key"]["found"].startswith("worker ")
    assert found["ram"]["advice"] == f"dah worker plan {run.url} tells whether the run fits"


def test_the_table_is_whole_and_the_exit_code_comes_after_it(tmp_path: Path) -> None:
    deep = tmp_path / ("a" * 90)
    answer = dah("worker", "doctor", NOBODY, "--state-dir", deep, *CPU)
    assert (answer.code, answer.err) == (Unreachable.exit_code, "")
    assert_whole(answer, ["device", "state dir", "line up", "problem", "This machine cannot work yet."])
    assert str(deep) in "".join(line[20:].strip() for line in answer.out.splitlines())


def assert_whole(answer: Answer, said: list[str]) -> None:
    lines = answer.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in answer.out
    assert all(words in answer.out for words in said)


def test_a_silent_coordinator_ends_the_command_with_its_code(tmp_path: Path) -> None:
    with silent() as port:
        found = doctor(f"http://127.0.0.1:{port}", "--state-dir", tmp_path, code=Unreachable.exit_code)
    assert found["http"]["state"] == "problem"


def test_a_folder_that_cannot_be_is_a_line_and_not_the_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    found = doctor("--state-dir", tmp_path / "file", code=StorageError.exit_code)
    assert [found[name]["state"] for name in ("state_dir", "cache_dir", "key")] == ["problem"] * 3
    assert found["http"]["found"] == "state_dir does not tell which run was joined"


def test_a_damaged_memory_of_joined_runs_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "x.json").write_text("{}")
    found = doctor("--state-dir", tmp_path, code=ConfigError.exit_code)
    assert found["http"]["advice"] == "delete it and join again"


def test_a_wanted_card_that_is_not_there_is_a_hardware_problem(tmp_path: Path) -> None:
    answer = dah("worker", "doctor", "--state-dir", tmp_path, "--set", "device=cuda", "--json")
    checks = json.loads(answer.out.splitlines()[-1])["checks"]
    if checks[0]["state"] == "fine":
        pytest.skip("this machine has a card")
    assert (answer.code, checks[0]["state"]) == (HardwareError.exit_code, "problem")


def test_what_is_no_address_is_refused_as_everywhere(tmp_path: Path) -> None:
    said = dah("worker", "doctor", "nonsense", "--state-dir", tmp_path).refuses(ConfigError.exit_code)
    assert said == "'nonsense' is not an address: give one like https://host:8400"
