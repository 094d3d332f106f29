"""Where a run is looked for, and what is made of what is found instead."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import httpx2
import pytest

from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.clock import ManualClock
from diffusion_at_home.errors import Busy, ConfigError, RetryCall, Unreachable, VersionMismatch
from worker.run_address import RunAddress
from worker.whereabouts import Found, Whereabouts, Workplace

NEVER = threading.Event()
RUN_ID = "digits-00000000"
Page = Callable[[], httpx2.Response]


def run(port: int = 8401, run_id: str = RUN_ID, protocol_version: int = PROTOCOL_VERSION) -> Page:
    info = {"run_id": run_id, "run": "digits", "protocol_version": protocol_version, "spec_sha256": "0" * 64}
    return lambda: httpx2.Response(200, text=json.dumps({**info, "grpc_port": port}))


def page(status: int, text: str = "<html>log in</html>") -> Page:
    return lambda: httpx2.Response(status, text=text)


def nobody() -> httpx2.Response:
    raise httpx2.ConnectError("nobody")


class Net:
    """What answers at http://a, http://b ..., and who was asked."""

    def __init__(self, **pages: Page) -> None:
        self.pages = pages
        self.asked = ""
        self.found: list[Found] = []
        self.clock = ManualClock()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked += request.url.host
        return self.pages[request.url.host]()

    def whereabouts(self, hosts: str, run_id: str = RUN_ID, *, known: bool = True) -> Whereabouts:
        place = Workplace(tuple(RunAddress(f"http://{host}") for host in hosts), run_id, known)
        http = httpx2.Client(transport=httpx2.MockTransport(self))
        return Whereabouts(place, http, self.clock, self.found.append)

    def look(self, where: Whereabouts) -> RetryCall | None:
        """As after two failures and a while."""
        self.clock.advance(60)
        where.look_again(NEVER)
        return where.look_again(NEVER)


def test_addresses_are_tried_in_turn_and_the_one_that_answers_comes_first() -> None:
    net = Net(a=nobody, b=page(502), c=run())
    where = net.whereabouts("abc")
    assert where.find(NEVER).target == "c:8401"
    assert (net.asked, where.url) == ("abc", "http://c")
    assert [address.url for address in where.addresses] == ["http://c", "http://a", "http://b"]
    assert where.blob_url("f" * 64) == f"http://c/blobs/{'f' * 64}"


def test_another_run_is_named_and_passed_by() -> None:
    net = Net(a=run(run_id="other-11111111"), b=run())
    assert net.whereabouts("ab").find(NEVER).address.url == "http://b"
    with pytest.raises(Unreachable, match=r"http://a now serves another run, other-11111111: dah worker join http://a"):
        net.whereabouts("a").find(NEVER)


def test_another_run_is_not_judged_by_its_version() -> None:
    net = Net(a=run(run_id="other-11111111", protocol_version=PROTOCOL_VERSION + 1))
    with pytest.raises(Unreachable, match="now serves another run"):
        net.whereabouts("a").find(NEVER)


def test_first_run_that_answers_is_the_one_from_then_on() -> None:
    net = Net(a=run(), b=run(run_id="other-11111111"))
    where = net.whereabouts("ab", "", known=False)
    where.find(NEVER)
    net.pages["a"] = nobody
    with pytest.raises(Unreachable, match="another run"):
        where.find(NEVER)


@pytest.mark.parametrize("page", [page(200), page(404), page(200, '{"answer": 42}'), page(200, '{"run_')])
def test_what_is_no_run_is_a_wrong_address_only_where_none_was_joined(page: Page) -> None:
    net = Net(a=page)
    with pytest.raises(ConfigError, match=r"http://a serves no run: check the address$"):
        net.whereabouts("a", "", known=False).find(NEVER)
    with pytest.raises(Unreachable, match="http://a serves no run: check the address, and log in"):
        net.whereabouts("a").find(NEVER)


def test_other_version_ends_it_only_if_no_address_may_yet_answer_otherwise() -> None:
    newer = run(protocol_version=PROTOCOL_VERSION + 1)
    net = Net(a=newer, b=newer, c=nobody)
    with pytest.raises(VersionMismatch):
        net.whereabouts("ab").find(NEVER)
    with pytest.raises(Unreachable, match=r"upgrade this software with .*; nobody answers at http://c"):
        net.whereabouts("ac").find(NEVER)


def test_busy_address_is_asked_again_when_it_said() -> None:
    net = Net(a=nobody, b=lambda: httpx2.Response(503, headers={"Retry-After": "7"}))
    with pytest.raises(Busy) as busy:
        net.whereabouts("ab").find(NEVER)
    assert busy.value.retry_after.total_seconds() == 7


def test_run_that_is_silent_is_found_where_it_has_moved() -> None:
    net = Net(a=run(), b=nobody)
    where = net.whereabouts("ab")
    where.find(NEVER)
    net.pages |= {"a": nobody, "b": run(port=9000)}
    assert net.look(where) is None
    assert [found.target for found in net.found] == ["a:8401", "b:9000"]
    assert where.url == "http://b"


def test_run_that_has_another_port_is_found_where_it_was() -> None:
    net = Net(a=run())
    where = net.whereabouts("a")
    where.find(NEVER)
    net.look(where)
    net.pages["a"] = run(port=9000)
    net.look(where)
    assert [found.target for found in net.found] == ["a:8401", "a:9000"]


def test_something_in_its_place_is_the_better_reason() -> None:
    net = Net(a=run())
    where = net.whereabouts("a")
    where.find(NEVER)
    net.pages["a"] = page(200)
    assert "serves no run" in str(net.look(where))
    net.pages["a"] = nobody
    assert net.look(where) is None
    net.pages["a"] = run(protocol_version=PROTOCOL_VERSION + 1)  # whoever calls next is told so by the coordinator
    assert net.look(where) is None


def test_one_failure_is_no_reason_to_look_nor_are_many_at_once() -> None:
    net = Net(a=run())
    where = net.whereabouts("a")
    where.look_again(NEVER)
    assert net.asked == ""
    for _ in range(10):
        where.look_again(NEVER)
    assert net.asked == "a"
    net.clock.advance(60)
    where.answered()
    where.look_again(NEVER)
    assert net.asked == "a"
