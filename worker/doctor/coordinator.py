"""What can be told of the way to a run: its clock, both of its ports, its files, the line.

Every question has a time of its own, all of them together have one too, and nothing is sent but the questions.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

import httpx2

from diffusion_at_home import __version__
from diffusion_at_home.clock import Clock
from diffusion_at_home.config.run import Codec
from diffusion_at_home.doctor import Check, checked, failed, fine, problem, skipped, warning
from diffusion_at_home.errors import (
    DahError,
    IntegrityError,
    LeaveRun,
    RetryCall,
    Unreachable,
)
from diffusion_at_home.linetest import MAX_LINE_TEST_BYTES
from diffusion_at_home.runinfo import RUN_INFO_PATH, RunInfo
from diffusion_at_home.runspec import MAX_SPEC_BYTES, RunSpec
from diffusion_at_home.wire.vector import size_bounds
from worker.client import CoordinatorClient
from worker.doctor.deadline import Deadline
from worker.doctor.line import LineTest, NotMeasured, measure
from worker.run_address import RunAddress, find_run
from worker.whereabouts import Workplace

_T = TypeVar("_T")

_CALL: Final = timedelta(seconds=4)
"""For one question over HTTP."""

_RPC: Final = timedelta(seconds=3)
_LINE: Final = timedelta(seconds=5)
_MEASURE_SECONDS: Final = 3.0
_DOWNLOAD_SECONDS: Final = 2.5

_MOST_UP_BYTES: Final = 4 * 2**20
_TAIL_BYTES: Final = 64 * 2**10
"""Of a blob, asked for by Range."""

_SKEW_SECONDS: Final = 60.0

_TELL: Final = "tell the operator of the run"

NAMES: Final = ("clock", "http", "grpc", "blobs", "line_down", "line_up")
"""The lines that need a coordinator, in order."""


def doctors_http(address: RunAddress) -> httpx2.Client:
    """An HTTP client that is less patient than a worker's, for `address`."""
    headers = {"User-Agent": f"diffusion-at-home/{__version__}"}
    return httpx2.Client(timeout=httpx2.Timeout(3.0), headers=headers, follow_redirects=True, verify=address.tls)


class Visit:
    """One look at the run at a place."""

    def __init__(
        self,
        *,
        place: Workplace,
        http: httpx2.Client,
        deadline: Deadline,
        clock: Clock,
        wall_seconds: Callable[[], float] = time.time,
    ) -> None:
        """`wall_seconds` is this machine's idea of the time, since 1970."""
        self._address: RunAddress = place.address
        self._run_id = place.run_id
        self._http = http
        self._deadline = deadline
        self._clock = clock
        self._wall_seconds = wall_seconds
        self._spec: RunSpec | None = None

    def checks(self) -> list[Check]:
        """A line for each of `NAMES`."""
        try:
            info = self._ask(_CALL, lambda: find_run(self._address, self._http))
        except DahError as error:
            found = failed("http", error, "check the address, or try again later")
            reason = f"no run was found at {self._address.url}"
            return [found if name == "http" else skipped(name, reason) for name in NAMES]
        line = LineTest(self._address, self._http, self._clock)
        return [
            self._check("clock", self._look_at_clock, _TELL),
            self._check("http", lambda: self._look_at_run(info), _TELL),
            self._check("grpc", lambda: self._look_at_grpc(info), _blocked(info)),
            self._check("blobs", lambda: self._look_at_blobs(info), _TELL),
            self._check("line_down", lambda: self._look_down(info, line), _TELL),
            self._check("line_up", lambda: self._look_up(info, line), _TELL),
        ]

    def _check(self, name: str, look: Callable[[], Check], otherwise: str) -> Check:
        if self._deadline.left_seconds < 0.5:
            return skipped(name, "the coordinator is too slow for more questions")
        return checked(name, look, otherwise, Unreachable)

    def _ask(self, most: timedelta, work: Callable[[], _T]) -> _T:
        try:
            return self._deadline.within(most, work)
        except httpx2.HTTPError as error:
            raise Unreachable(f"{self._address.url} breaks off ({type(error).__name__})") from None

    def _look_at_clock(self) -> Check:
        begun = self._wall_seconds()
        date = self._ask(_CALL, self._date)
        ended = self._wall_seconds()
        try:
            theirs = parsedate_to_datetime(date).timestamp() + 0.5  # it is cut to whole seconds
        except (ValueError, OverflowError):
            return skipped("clock", "the coordinator does not say what time it is")
        ahead = (begun + ended) / 2 - theirs
        found = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the coordinator"
        advice = "switch on time synchronisation, as in timedatectl set-ntp true"
        if abs(ahead) > _SKEW_SECONDS:
            return warning("clock", found, advice)
        return fine("clock", f"within {max(abs(ahead), 1):.0f} s of the coordinator")

    def _date(self) -> str:
        with self._http.stream("GET", self._address.url + RUN_INFO_PATH) as response:
            return str(response.headers.get("Date", ""))

    def _look_at_run(self, info: RunInfo) -> Check:
        if self._run_id not in {"", info.run_id}:
            raise LeaveRun(
                f"{self._address.url} now serves another run, {info.run_id}: dah worker join {self._address}"
            )
        return fine("http", f"{info.run_id} at {self._address.url}, protocol {info.protocol_version}")

    def _look_at_grpc(self, info: RunInfo) -> Check:
        target = self._address.grpc_target(info.grpc_port)

        def ask() -> tuple[bool, float]:
            with closing(CoordinatorClient(target, self._address.trust(info))) as client:
                serving = client.is_serving(_RPC)  # which also connects
                begun = self._clock.now()
                client.is_serving(_RPC)
                return serving, self._clock.now() - begun

        serving, seconds = self._ask(_CALL, ask)
        if not serving:
            return problem("grpc", f"{target} is there and does not serve", "try again later", Unreachable)
        return fine("grpc", f"{target} serves, round trip {1000 * seconds:.0f} ms")

    def _look_at_blobs(self, info: RunInfo) -> Check:
        url = self._address.blob_url(info.spec_sha256)
        got = self._ask(_CALL, lambda: self._download(url, 0))
        if got.status != httpx2.codes.OK:
            raise Unreachable(f"HTTP {got.status} when asked for the run's specification: {_TELL}")
        if not got.whole:
            return warning(
                "blobs", f"{len(got.data):,} bytes came in {_DOWNLOAD_SECONDS} s", "this line is too slow to tell more"
            )
        if hashlib.sha256(got.data).hexdigest() != info.spec_sha256:
            raise IntegrityError("the run's specification is another than is announced: do not join it")
        spec = RunSpec.from_bytes(got.data)
        if spec.run_id != info.run_id:
            raise LeaveRun(f"the specification of {info.run_id} is that of {spec.run_id}: {_TELL}")
        self._spec = spec
        start = max(len(got.data) // 2, len(got.data) - _TAIL_BYTES)
        tail = self._ask(_CALL, lambda: self._download(url, start))
        if not tail.starts_at(start):
            return warning(
                "blobs",
                "downloads arrive, but begin anew whenever the line breaks",
                f"{_TELL} that what stands before the coordinator must pass Range on",
            )
        if not got.data.startswith(tail.data, start):
            raise IntegrityError(f"a part of the run's specification is another than is announced: {_TELL}")
        return fine("blobs", f"{len(got.data):,} bytes arrived as announced; broken downloads go on where they stopped")

    def _download(self, url: str, start: int) -> _Body:
        """The blob from `start`, or as much as comes in time."""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        end = self._clock.now() + _DOWNLOAD_SECONDS
        data = bytearray()
        with self._http.stream("GET", url, headers=headers) as response:
            place = str(response.headers.get("Content-Range", ""))
            for piece in response.iter_raw():
                data += piece
                if len(data) > MAX_SPEC_BYTES:
                    raise IntegrityError(f"the run's specification is larger than any: {_TELL}")
                if self._clock.now() > end:
                    return _Body(response.status_code, place, bytes(data), whole=False)
        return _Body(response.status_code, place, bytes(data), whole=True)

    def _look_down(self, info: RunInfo, line: LineTest) -> Check:
        codec = None if self._spec is None else self._spec.config.codec.update
        return self._measure("line_down", "an update", _size(info, codec), line.down, MAX_LINE_TEST_BYTES)

    def _look_up(self, info: RunInfo, line: LineTest) -> Check:
        codec = None if self._spec is None else self._spec.config.codec.delta
        return self._measure("line_up", "a contribution", _size(info, codec), line.up, _MOST_UP_BYTES)

    def _measure(
        self, name: str, what: str, size_bytes: int, transfer: Callable[[int], float], most_bytes: int
    ) -> Check:
        """`size_bytes` of `what` is 0 where nobody knows. Not to be measured is no reason not to work."""
        try:
            bits = self._ask(_LINE, lambda: measure(transfer, most_bytes, _MEASURE_SECONDS))
        except NotMeasured as reason:
            return skipped(name, str(reason))
        except RetryCall as error:
            return warning(name, str(error), "measure again later")
        found = _speed(bits)
        if size_bytes == 0 or self._spec is None:
            return fine(name, found)
        seconds = 8 * size_bytes / bits
        found = f"{found}: {what} of up to {_size_text(size_bytes)} takes {_duration(seconds)}"
        longest = self._spec.config.round.max_seconds
        if seconds > longest:
            return warning(name, found, f"find a faster line: a round of this run takes at most {_duration(longest)}")
        return fine(name, found)


@dataclass(frozen=True, slots=True)
class _Body:
    status: int
    place: str
    """Content-Range."""
    data: bytes
    whole: bool

    def starts_at(self, start: int) -> bool:
        return self.status == httpx2.codes.PARTIAL_CONTENT and self.place.startswith(f"bytes {start}-")


def _blocked(info: RunInfo) -> str:
    return f"let port {info.grpc_port} out through your firewall, or {_TELL}"


def _size(info: RunInfo, codec: Codec | None) -> int:
    return 0 if codec is None or info.num_parameters == 0 else size_bounds(codec, info.num_parameters)[1]


def _size_text(num_bytes: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes / 1e3:.1f} kB"


def _speed(bits: float) -> str:
    return f"{bits / 1e6:.3g} Mbit/s" if bits < 1e8 else f"{bits / 1e6:,.0f} Mbit/s"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "less than 1 s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
