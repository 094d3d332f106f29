"""Both sides of a connection agree on how often the worker pings: a coordinator hangs up on those who ping too often."""

from __future__ import annotations

from coordinator.app import _GRPC_OPTIONS
from worker.client import _OPTIONS

ours, theirs = dict(_GRPC_OPTIONS), dict(_OPTIONS)


def test_workers_ping_no_more_often_than_the_coordinator_allows() -> None:
    assert theirs["grpc.keepalive_time_ms"] >= 2 * ours["grpc.http2.min_ping_interval_without_data_ms"]


def test_workers_ping_between_two_calls_and_the_coordinator_lets_them() -> None:
    assert theirs["grpc.keepalive_permit_without_calls"] == ours["grpc.keepalive_permit_without_calls"] == 1
    assert theirs["grpc.http2.max_pings_without_data"] == 0  # as many as it takes


def test_dead_connection_is_noticed_before_a_lease_expires() -> None:
    assert theirs["grpc.keepalive_time_ms"] + theirs["grpc.keepalive_timeout_ms"] <= 45_000
