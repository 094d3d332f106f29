"""One who calls too often is turned away, and nobody else."""

from __future__ import annotations

import random

import pytest

from coordinator.callers import Addresses, PlacesPerCaller, RatePerCaller, peer_host
from coordinator.refused import Refused
from diffusion_at_home.clock import ManualClock

HOME = ("127.0.0.0/8", "::1/128")


def calls(rate: RatePerCaller, caller: str | None, count: int) -> int:
    """How many of `count` calls are let in."""
    let_in = 0
    for _ in range(count):
        try:
            rate.enter(caller, "too often")
            let_in += 1
        except Refused:
            pass
    return let_in


def test_each_has_its_own_allowance_which_comes_back_with_time() -> None:
    clock = ManualClock()
    rate = RatePerCaller(2.0, 5, clock, random.Random(0))
    assert (calls(rate, "anna", 100), calls(rate, "bert", 3)) == (5, 3)
    with pytest.raises(Refused) as turned_away:
        rate.enter("anna", "too often")
    assert turned_away.value.retry_after is not None
    assert 0.5 <= turned_away.value.retry_after.total_seconds() <= 1
    clock.advance(1.0)
    assert calls(rate, "anna", 100) == 2
    clock.advance(1000.0)
    assert calls(rate, "anna", 100) == 5


def test_nothing_is_no_limit_and_who_has_none_has_none() -> None:
    assert calls(RatePerCaller(0, 0, ManualClock(), random.Random(0)), "anna", 1000) == 1000
    assert calls(RatePerCaller(1, 1, ManualClock(), random.Random(0)), None, 1000) == 1000


def test_callers_without_end_take_no_memory_without_end() -> None:
    rate = RatePerCaller(1.0, 1, ManualClock(), random.Random(0))
    for number in range(70_000):
        rate.enter(number, "too often")
    assert len(rate._left) == 65_536


def test_places_come_back() -> None:
    places = PlacesPerCaller(1, random.Random(0))
    with places.taken("anna", "full"):
        with places.taken("bert", "full"), pytest.raises(Refused, match="full"), places.taken("anna", "full"):
            pass
        assert len(places._taken) == 1
    with places.taken("anna", "full"):
        pass
    assert not places._taken


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::1%eth1", True),
    ],
)
def test_a_household_is_one_caller(one: str, other: str, same: bool) -> None:
    addresses = Addresses(HOME)
    assert (addresses.caller(one) == addresses.caller(other)) is same
    assert addresses.caller(one) is not None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "", "unix", "no address"])
def test_the_operator_s_own_networks_have_no_limits(host: str) -> None:
    assert Addresses(HOME).caller(host) is None


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:192.0.2.1:4711", "192.0.2.1"),
        ("ipv6:[2001:db8::1]:4711", "2001:db8::1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("unix:/tmp/socket", ""),
        ("", ""),
    ],
)
def test_what_grpc_calls_a_peer(peer: str, host: str) -> None:
    assert peer_host(peer) == host
