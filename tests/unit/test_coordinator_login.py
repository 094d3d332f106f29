"""Getting in at the operator's page: codes, sessions, forms, and where a request came from."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Message

from coordinator.login import make_login, redeem
from coordinator.records import now_ms
from coordinator.run_folder import RunFolder
from coordinator.web.operator.forms import Refusal, check_origin, read_form
from coordinator.web.operator.sessions import LASTS, Sessions
from diffusion_at_home.clock import ManualClock
from diffusion_at_home.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path)
    made.ledger.touch()
    return made


def code_of(folder: RunFolder) -> str:
    return make_login(folder).address.partition("#")[2]


# -- codes ------------------------------------------------------------------------------------------------------


def test_a_code_is_for_a_run_that_is_served(folder: RunFolder) -> None:
    with pytest.raises(ConfigError, match="not served now"):
        make_login(folder)


def test_a_code_is_good_once_and_only_its_hash_is_kept(folder: RunFolder) -> None:
    with folder.locked():
        folder.address.write_text(f"https://run.org:8400/#{'a' * 64}")
        made = make_login(folder)
        url, _, code = made.address.partition("#")
        assert (url, made.fingerprint) == ("https://run.org:8400/operator/login", "a" * 64)
        assert code.encode() not in folder.login.read_bytes()
        assert stat.S_IMODE(folder.login.stat().st_mode) == 0o600
        for wrong in ("", code[:-1], code + "x", "x" * 10_000, "\ud800"):
            assert not redeem(folder, wrong)
        assert redeem(folder, code)
        assert not redeem(folder, code)


def test_a_code_runs_out_and_a_newer_one_takes_its_place(folder: RunFolder) -> None:
    with folder.locked():
        folder.address.write_text("http://127.0.0.1:8400")
        first, second = code_of(folder), code_of(folder)
        assert not redeem(folder, first)
        kept = json.loads(folder.login.read_text())
        folder.login.write_text(json.dumps(kept | {"until_ms": now_ms()}))
        assert not redeem(folder, second)
        for damaged in ("", "{}", "[]", '{"sha256": 1, "until_ms": []}'):
            folder.login.write_text(damaged)
            assert not redeem(folder, second)


# -- sessions ---------------------------------------------------------------------------------------------------


def test_a_session_lasts_twelve_hours_and_ends_with_a_logout() -> None:
    clock = ManualClock(0.0)
    sessions = Sessions(clock)
    first, second = sessions.open(), sessions.open()
    found = sessions.find(first)
    assert found is not None
    assert found.form_token != first
    for nobody in (None, "", "x", first[:-1], "x" * 1000):
        assert sessions.find(nobody) is None
    sessions.close(first)
    assert sessions.find(first) is None
    clock.advance(LASTS.total_seconds() - 1)
    assert sessions.find(second) is not None
    clock.advance(1)
    assert sessions.find(second) is None


def test_there_are_never_many_sessions() -> None:
    sessions = Sessions(ManualClock(0.0))
    tokens = [sessions.open() for _ in range(40)]
    assert sum(sessions.find(token) is not None for token in tokens) == 32
    assert sessions.find(tokens[0]) is None


# -- where a request came from ----------------------------------------------------------------------------------

HERE = "http://127.0.0.1:8400"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": HERE},
        {"origin": HERE.upper()},
        {"origin": "null", "sec-fetch-site": "same-origin"},  # a browser that was told to send no referrer
        {"sec-fetch-site": "same-origin"},
    ],
)
def test_our_own_pages_are_known(headers: Mapping[str, str]) -> None:
    check_origin(Headers({"host": "127.0.0.1:8400", **headers}), scheme="http")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "null"},
        {"origin": "null", "sec-fetch-site": "cross-site"},
        {"origin": "https://evil.example", "sec-fetch-site": "same-origin"},
        {"origin": "http://127.0.0.1:8401"},
        {"origin": "https://127.0.0.1:8400"},
        {"origin": "http://127.0.0.1:8400.evil.example"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
    ],
)
def test_other_pages_are_refused(headers: Mapping[str, str]) -> None:
    with pytest.raises(Refusal):
        check_origin(Headers({"host": "127.0.0.1:8400", **headers}), scheme="http")


# -- forms ------------------------------------------------------------------------------------------------------


def form(body: bytes, kind: str = "application/x-www-form-urlencoded") -> dict[str, str]:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", kind.encode())]}
    return asyncio.run(read_form(Request(scope, receive)))


def test_a_form_is_read() -> None:
    assert form(b"act=note&note=a+%26+b&days=") == {"act": "note", "note": "a & b", "days": ""}
    assert form(b"", "application/x-www-form-urlencoded; charset=UTF-8") == {}


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"a" * 20_000, "application/x-www-form-urlencoded", 413),
        (b"&".join(b"a=1" for _ in range(50)), "application/x-www-form-urlencoded", 400),
        (b"\xff\xfe", "application/x-www-form-urlencoded", 400),
        (b"no pairs", "application/x-www-form-urlencoded", 400),
        (b"{}", "application/json", 415),
        (b"", "multipart/form-data", 415),
    ],
)
def test_what_is_no_form_or_too_much_of_one_is_refused(body: bytes, kind: str, status: int) -> None:
    with pytest.raises(Refusal) as refusal:
        form(body, kind)
    assert refusal.value.status == status
