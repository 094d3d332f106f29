"""The operator's page on a real coordinator: what it does, and that nobody else can make it do anything."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from coordinator.login import make_login
from coordinator.orders import orders
from coordinator.run_folder import RunFolder
from tests.integration.live_run import LiveRun, Volunteer, encoded, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder

QUIET = ("evaluation.every_images=100000", "checkpoint.every_images=100000", "lease.probe_steps=1", "lease.min_steps=1")
SCRIPT = "<script>alert(1)</script>"


class Browser:
    """Keeps cookies, says where it comes from, and follows nothing."""

    def __init__(self, run: LiveRun) -> None:
        self.run = run
        self.http = httpx2.Client(base_url=run.url, verify=False, headers={"Origin": run.url})

    def page(self) -> str:
        answer = self.http.get("/operator")
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store"), answer.text
        return answer.text

    def token(self) -> str:
        found = re.search(r'name="token" value="([^"]+)"', self.page())
        assert found
        return found[1]

    def log_in(self) -> httpx2.Response:
        return self.post("/operator/login", code=code(self.run))

    def post(self, path: str, headers: dict[str, str] | None = None, **form: str) -> httpx2.Response:
        return self.http.post(path, data=form, headers=headers)

    def act(self, act: str, **form: str) -> str:
        """Press a button; what the page says then."""
        answer = self.post("/operator/act", token=self.token(), act=act, **form)
        assert (answer.status_code, answer.headers["location"]) == (303, "/operator"), answer.text
        said = re.search(r'role="status">([^<]*)<', self.page())
        assert said
        return html.unescape(said[1])


def code(run: LiveRun) -> str:
    run.folder.address.write_text(run.address)
    return make_login(run.folder).address.partition("#")[2]


@contextmanager
def browser(run: LiveRun) -> Iterator[Browser]:
    made = Browser(run)
    with made.http:
        yield made


def done(folder: RunFolder) -> list[tuple[str, str, str]]:
    with orders(folder) as given:
        return [(one["action"], one["subject"], one["note"]) for one in given.state()["actions"]]


def test_an_operator_logs_in_once_and_does_all_that_the_page_offers(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, "round.images=8", "lease.max_steps=1")
    with serving(folder) as run, volunteers(run, 1) as (anna,), browser(run) as operator:
        link = operator.http.get("/operator/login")
        assert (link.status_code, "operator_login.js" in link.text) == (200, True)
        let_in = operator.log_in()
        assert (let_in.status_code, let_in.headers["location"]) == (303, "/operator")
        cookie = let_in.headers["set-cookie"].lower()
        assert all(
            word in cookie for word in ("dah-operator=", "httponly", "samesite=strict", "path=/", "max-age=43200")
        )
        assert "secure" not in cookie, "plain text on this machine"
        assert "nothing was trained yet" in operator.act("publish", note="")
        for number in (1, 2):
            anna.submit(anna.lease(), encoded(run, 0.001))
            run.wait_for_version(number)
        worker = anna.identity.worker_id
        assert "comes to rest" in operator.act("drain", note="new disk")
        assert "draining already" in operator.act("drain", note="")
        assert "goes on" in operator.act("resume", note="")
        assert "Noted" in operator.act("note", note="a new mirror")
        assert "twice" in operator.act("rollback", version="1", again="2", note="")
        assert "is a number" in operator.act("rollback", version="one", again="one", note="")
        assert "is banned" in operator.act("ban", worker=worker, days="1", note="it computes wrongly")
        assert "days are a number" in operator.act("ban", worker=worker, days="soon", note="")
        assert worker in operator.page()
        assert "may come back" in operator.act("unban", worker=worker)
        assert "goes back to version 1" in operator.act("rollback", version="1", again="1", note="it draws noise")
        assert "no such button" in operator.act("shutdown", note="")
        run.wait_for_version(3)
        assert done(folder) == [
            ("drain", "", "new disk"),
            ("resume", "", ""),
            ("note", "", "a new mirror"),
            ("ban", worker, "it computes wrongly"),
            ("unban", worker, ""),
            ("rollback", "1", "it draws noise"),
        ]
        assert operator.post("/operator/logout", token=operator.token()).status_code == 303
        assert operator.http.get("/operator").headers["location"] == "/operator/login"


def test_nobody_else_can_make_it_do_anything(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET)
    with serving(folder) as run, browser(run) as operator, browser(run) as stranger:
        drain = {"act": "drain", "note": ""}
        assert stranger.http.get("/operator").headers["location"] == "/operator/login"
        assert stranger.post("/operator/act", token="x", **drain).status_code == 403
        stranger.http.cookies.set("dah-operator", "x" * 43)
        assert stranger.post("/operator/act", token="x", **drain).status_code == 403
        first = code(run)
        second = code(run)  # a newer one takes the older one's place
        foreign = {"Origin": "https://evil.example"}
        tries: list[Callable[[], httpx2.Response]] = [
            lambda: stranger.post("/operator/login", code=first),
            lambda: stranger.post("/operator/login", code="wrong"),
            lambda: operator.post("/operator/login", foreign, code=second),
            lambda: operator.post("/operator/login", {"Origin": "null"}, code=second),
            lambda: operator.post("/operator/login", {"Origin": "null", "Sec-Fetch-Site": "cross-site"}, code=second),
        ]
        assert [one().status_code for one in tries] == [403] * 5
        assert operator.post("/operator/login", code=second).status_code == 303
        assert stranger.post("/operator/login", code=second).status_code == 403, "it was used"
        token = operator.token()
        tries = [
            lambda: operator.post("/operator/act", **drain),
            lambda: operator.post("/operator/act", token="", **drain),
            lambda: operator.post("/operator/act", token=token[:-1] + "x", **drain),
            lambda: operator.post("/operator/act", foreign, token=token, **drain),
            lambda: operator.post("/operator/act", {"Origin": "null"}, token=token, **drain),
            lambda: operator.post("/operator/act", {"Origin": run.url + "0"}, token=token, **drain),
            lambda: operator.post("/operator/logout", foreign, token=token),
            lambda: stranger.post("/operator/act", token=token, **drain),
        ]
        assert [one().status_code for one in tries] == [403] * 8
        assert operator.http.get("/operator/act").status_code == 405
        many = [stranger.post("/operator/login", code="wrong").status_code for _ in range(12)]
        assert many[-1] == 429
        assert done(folder) == []
        assert operator.page()


def test_what_others_have_written_is_only_words_on_the_page(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET)
    with serving(folder) as run, browser(run) as operator:
        evil = Volunteer(run)
        evil.token = evil.stub.Join(evil.join_request(display_name=SCRIPT), timeout=20).session_token
        evil.lease()
        operator.log_in()
        operator.act("note", note=SCRIPT)
        operator.act("ban", worker=evil.identity.worker_id, days="0", note=f'"><img src=x onerror=alert(1)>{SCRIPT}')
        page = operator.page()
        assert SCRIPT not in page
        assert "<img src=x" not in page
        assert page.count(html.escape(SCRIPT)) >= 3
        policy = operator.http.get("/operator").headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy


def test_a_session_does_not_outlive_its_coordinator(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *QUIET, "server.tls='own'")
    with serving(folder) as run, browser(run) as operator:
        cookie = operator.log_in().headers["set-cookie"]
        assert cookie.startswith("__Host-dah-operator=")
        assert "; Secure" in cookie
        assert operator.page()
        kept = operator.http.cookies["__Host-dah-operator"]
        assert kept.encode() not in b"".join(path.read_bytes() for path in folder.root.glob("*") if path.is_file())
    with serving(folder) as run, browser(run) as operator:
        operator.http.cookies.set("__Host-dah-operator", kept)
        assert operator.http.get("/operator").headers["location"] == "/operator/login"
