"""The pages against readers and volunteers who mean harm: nothing runs, nothing private is told, nothing breaks."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from collections.abc import Iterator
from contextlib import closing
from html import unescape
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote, unquote

import gen_api_docs
import pytest
import sqlalchemy as sa
from benchmarks.pages.asking import Answer, ask
from benchmarks.pages.made_up import Extent, MadeUp, make, site_of, sources_of, worker_id
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from coordinator import tables
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.problems import Problems
from coordinator.records import Action, ActionKind, Withdrawn
from coordinator.web.guard import CONTENT_SECURITY_POLICY, Guard
from coordinator.web.previews import MOST_BYTES
from coordinator.web.site import Site
from diffusion_at_home.clock import SystemClock
from diffusion_at_home.errors import StorageError

NASTY = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "a/../../b?c=d#e&amp;",
    "..",
    "%2e%2e%2f",
)
EXTENT = Extent(workers=12, rounds=12, contributions=200, live=9, shards=30, checkpoints=3, actions=8, names=NASTY)
PAGES = (
    "/",
    "/machines",
    "/contributors",
    "/contributors?period=day",
    "/contributors?by=team",
    f"/teams/{quote(NASTY[1], safe='')}",
    f"/workers/{worker_id(0)}",
    "/downloads",
    "/status",
    "/log",
    "/join",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeUp:
    run = make(tmp_path_factory.mktemp("site") / "run", EXTENT, f"run.title={json.dumps(NASTY[0] + NASTY[1])}")
    with closing(Ledger(run.folder.ledger)) as ledger:
        for number, note in enumerate(NASTY):
            ledger.add_action(Action(0, ActionKind.BAN, worker_id(number), note, 1))
        ledger.add_action(Action(0, ActionKind.INVITE, "5ec2e7" * 10, "for Bob's brother", 1, uses=1))
    return run


@pytest.fixture(scope="module")
def app(made: MadeUp) -> Iterator[ASGIApp]:
    with site_of(made) as site:
        yield Guard(Starlette(routes=site.routes(), exception_handlers={HTTPException: site.failed}))


def got(app: ASGIApp, path: str, method: str = "GET", **headers: str) -> Answer:
    return asyncio.run(ask(app, path, method, **headers))


class Markup(HTMLParser):
    """What of a page could run, and where it leads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.dangerous: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name.startswith("on") or name in {"style", "srcdoc"}:
                self.dangerous.append((tag, name))
            if name in {"href", "src", "action", "data-events", "data-chart"}:
                self.links.append(value or "")
        if tag == "script":
            self.scripts.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def every_page(app: ASGIApp) -> Iterator[tuple[str, Answer]]:
    named = [f"/{of}/{quote(name, safe='')}" for of in ("volunteers", "teams") for name in NASTY if name != ".."]
    newest = "/downloads/" + json.loads(got(app, "/api/v1/downloads").body)["latest"]["name"]
    for path in (
        *PAGES,
        newest,
        *named,
        "/volunteers/?called=..",
        "/teams/?called=..",
        f"/contributors?find={quote(NASTY[1])}",
        "/nowhere",
    ):
        yield path, got(app, path)


def test_what_volunteers_and_operators_write_is_text_and_nothing_else(app: ASGIApp) -> None:
    for path, answer in every_page(app):
        assert answer.status == (404 if path == "/nowhere" else 200), path
        page = Markup(answer.text)
        assert page.dangerous == [], path
        assert not {"iframe", "object", "embed", "base", "style"} & set(page.tags), path
        assert all(set(script) == {"src", "defer"} for script in page.scripts), path
        assert "alert(1)" not in "".join(map(str, page.scripts)), path
        for link in page.links:
            assert re.match(r"/(?!/)|#main$", link), (path, link)
    told = "".join(Markup(got(app, "/contributors").text).texts)
    assert all(name in told for name in NASTY)
    told = "".join(Markup(got(app, "/log").text).texts)
    assert all(note in told for note in NASTY)


@pytest.mark.parametrize(("by", "of"), [("name", "/volunteers/"), ("team", "/teams/")])
def test_the_link_of_each_name_leads_to_its_page(app: ASGIApp, by: str, of: str) -> None:
    links = {link for link in Markup(got(app, f"/contributors?by={by}").text).links if link.startswith(of)}
    names = {"".join(re.findall(r"<h1><bdi>(.*)</bdi></h1>", got(app, link).text)) for link in links}
    assert len(names) == len(links) >= len(NASTY)
    assert all("/.." not in unquote(link).removeprefix(of.rstrip("/")) or "%2F" in link for link in links)


def test_every_answer_has_the_policy_and_none_may_be_framed_or_sniffed(app: ASGIApp) -> None:
    paths = ["/static/0/style.css", "/api/v1/run", "/api/v1/nothing", "/workers/..%2f..%2fetc%2fpasswd"]
    for path in (*PAGES, *paths):
        for method in ("GET", "HEAD", "OPTIONS", "POST", "TRACE"):
            answer = got(app, path, method)
            assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY, (method, path)
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert "access-control-allow-origin" not in answer.headers
            if method not in {"GET", "HEAD"}:
                assert answer.status in {404, 405}
    assert "unsafe" not in CONTENT_SECURITY_POLICY


def test_nothing_beyond_the_package_and_the_run_can_be_reached(app: ASGIApp) -> None:
    style = next(link for link in Markup(got(app, "/").text).links if link.endswith("style.css"))
    assert got(app, style).headers["content-type"].startswith("text/css")
    folder = style.rpartition("/")[0]
    for path in (
        f"{folder}/../templates/base.html",
        f"{folder}/..%2f..%2fapp.py",
        f"{folder}//etc/passwd",
        "/static/%2e%2e/style.css",
        "/workers/..",
        "/workers/%00",
        "/workers/" + "0" * 15,
        "/workers/" + "F" * 16,
        "/volunteers/nobody",
        "/volunteers/",
        "/volunteers/" + "x" * 100_000,
        "/teams/nobody",
        "/teams/",
        "/teams/" + "x" * 100_000,
        "/downloads/..%2f..%2fledger.sqlite",
        "/downloads/nothing",
    ):
        assert got(app, path).status == 404, path


def test_what_is_not_there_is_said_in_words_and_to_programs_in_json(app: ASGIApp) -> None:
    assert "There is nothing here" in got(app, f"/workers/{'f' * 16}").text
    answer = got(app, f"/api/v1/workers/{'f' * 16}")
    assert (answer.status, json.loads(answer.body)) == (404, {"error": "there is nothing of this name"})
    assert json.loads(got(app, "/api/v1/nothing").body)["error"]


@pytest.mark.parametrize(
    "query",
    ["x=" + "y" * 60_000, "page=" + "9" * 5000, "page=-1", "period=%00", "find=%ff%fe", "&".join(["a=b"] * 5000)],
)
def test_odd_queries_break_nothing(app: ASGIApp, query: str) -> None:
    for path in ("/contributors", "/machines", "/log", "/downloads", "/api/v1/contributors"):
        assert got(app, f"{path}?{query}").status in {200, 404}, path


def test_no_page_holds_an_address_a_token_a_key_or_what_an_invitation_says(app: ASGIApp, made: MadeUp) -> None:
    engine = sa.create_engine(f"sqlite:///{made.folder.ledger}")
    with engine.connect() as tx:
        workers = tx.execute(sa.select(tables.workers)).mappings().all()
        signatures = tx.execute(sa.select(tables.contributions.c.signature)).scalars().all()
    engine.dispose()
    secret = (
        {str(row["token_sha256"]) for row in workers} | {row["public_key"].hex() for row in workers} | set(signatures)
    )
    secret |= {"5ec2e7", "Bob", "192.0.2.1", "127.0.0.1"}
    pages = [*PAGES, *(f"/api/v1{page}" for page in PAGES if page != "/"), "/api/v1/run", "/api/v1/curve"]
    for path in pages:
        text = got(app, path).text
        offered = set(re.findall(r"\b[0-9a-f]{64}\b", text)) if "downloads" in path else set()
        assert not [word for word in secret if word in text and word not in offered], path


def test_every_page_has_its_json_and_both_say_the_same(app: ASGIApp) -> None:
    shown = got(app, "/contributors").text
    found: dict[str, Any] = json.loads(got(app, "/api/v1/contributors").body)
    assert f"<strong>{found['images']:,}</strong> images" in shown
    for row in found["rows"]:
        assert f"{row['images']:,}" in shown
    run = json.loads(got(app, "/api/v1/run").body)
    assert f"{run['progress']['images']:,}" in got(app, "/").text
    curve = json.loads(got(app, "/api/v1/curve").body)
    assert [point["version"] for point in curve["points"]] == list(range(EXTENT.rounds + 1))
    assert curve["evaluated"] == EXTENT.rounds + 1


def test_a_team_has_its_members_by_name_and_adds_up_to_them(app: ASGIApp) -> None:
    rows = json.loads(got(app, "/api/v1/contributors?by=team").body)["rows"]
    for row in rows:
        team = json.loads(got(app, f"/api/v1/teams/{quote(row['name'], safe='')}?called={quote(row['name'])}").body)
        assert (team["name"], team["images"]) == (row["name"], row["images"])
        assert sum(member["images"] for member in team["members"]) == team["images"]
        assert team["workers"] >= sum(member["workers"] for member in team["members"]) >= 1
        assert sum(day["images"] for day in team["shown_days"]) == team["images"]
    nameless = json.loads(got(app, f"/api/v1/workers/{worker_id(8)}").body)
    assert (nameless["name"], nameless["team"], nameless["images"] > 0) == ("", "team 1", True)
    told = got(app, "/teams/team%201").text
    assert "without a name" in told
    assert worker_id(8) not in told


def test_a_worker_is_told_what_was_refused_in_words(app: ASGIApp) -> None:
    (refused,) = json.loads(got(app, f"/api/v1/workers/{worker_id(3)}").body)["refused"]
    assert (refused["reason"], refused["calls"]) == ("round_closed", 4)
    assert refused["sentence"] == "handed in after its round had closed"
    assert f'<th scope="row">{refused["sentence"]}</th>' in got(app, f"/workers/{worker_id(3)}").text
    assert "None in the last 30 days." in got(app, f"/workers/{worker_id(1)}").text


def test_the_status_says_how_long_the_disk_will_do_and_what_goes_first(app: ASGIApp) -> None:
    disk = json.loads(got(app, "/api/v1/status").body)["disk"]
    assert (disk["growth_bytes_per_day"], disk["days_to_quota"], disk["days_to_full"]) == (12e9, 15.8, None)
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", got(app, "/status").text))
    assert facts["Grows by"] == "12 GB a day"
    assert facts["Quota reached"].replace("\N{NO-BREAK SPACE}", " ") == "in 15 d 19 h"
    assert facts["Disk full"] == "not before the end"
    assert facts["Goes first"] == disk["goes_first"] == "updates up to version 25998, which no snapshot needs"


def test_pages_say_all_without_a_script_and_have_what_readers_aloud_need(app: ASGIApp) -> None:
    for path in PAGES:
        text = got(app, path).text
        page = Markup(text)
        assert text.startswith("<!doctype html>")
        assert '<html lang="en">' in text
        assert page.tags.count("h1") == page.tags.count("main") == 1, path
        assert page.tags.count("table") == page.tags.count("caption"), path
        assert page.links[0].startswith("/static/")
        assert 'class="skip" href="#main"' in text
    assert "Held-out loss of 12 versions" in got(app, "/").text


def test_the_document_of_the_json_is_what_the_records_say(made: MadeUp) -> None:
    document = gen_api_docs.DOCUMENT.read_text(encoding="utf-8")
    assert document == gen_api_docs.text(), "run scripts/gen_api_docs.py"
    with site_of(made) as site:
        served = [route.path for route in site.routes() if route.path.startswith("/api/")]
    assert served
    assert not [path for path in served if f"`{path.replace(':path', '')}`" not in document]


class FullDisk(LedgerThread):
    """A ledger that cannot be read."""

    async def run(self, method: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        raise StorageError("the ledger cannot be used: free some space or check the disk")


def test_a_ledger_that_cannot_be_read_is_said_in_words(made: MadeUp) -> None:
    problems = Problems()
    with closing(LedgerThread(Ledger(made.folder.ledger), problems)) as writer:
        sources = sources_of(made, writer, problems)
        sources.ledger.close()
        broken = FullDisk(Ledger(made.folder.ledger, read_only=True), problems)
        site = Site(dataclasses.replace(sources, ledger=broken), SystemClock())
        app = Guard(Starlette(routes=site.routes(), exception_handlers={HTTPException: site.failed}))
        answer = got(app, "/log")
        assert (answer.status, "cannot be read now" in answer.text) == (503, True)
        assert got(app, "/api/v1/log").status == 503
        assert got(app, "/join").status == 200
        site.close()


def test_a_large_picture_is_shown_in_few_bytes_and_a_small_one_as_it_is(made: MadeUp, app: ASGIApp) -> None:
    small, large = (f"year-{EXTENT.round_images * number:010d}" for number in (4, 8))
    for name, side in ((small, 40), (large, 1200)):
        folder = made.folder.judgements / name
        folder.mkdir(parents=True)
        Image.effect_noise((side, side), 90).save(folder / "grid.png")
    with closing(Ledger(made.folder.ledger)) as ledger:
        for name in (small, large):
            ledger.withdraw(name, Withdrawn.THINNED)
    answer = got(app, f"/pictures/{small}")
    assert answer.body == (made.folder.judgements / small / "grid.png").read_bytes()
    answer = got(app, f"/pictures/{large}")
    assert (answer.headers["content-type"], answer.headers["content-security-policy"]) == (
        "image/webp",
        CONTENT_SECURITY_POLICY,
    )
    assert len(answer.body) <= MOST_BYTES < (made.folder.judgements / large / "grid.png").stat().st_size
    assert f"/judgements/{large}/grid.png" in got(app, "/").text
    for name in ("nothing", "..%2fledger.sqlite", f"{small}%2f..%2f{large}"):
        assert got(app, f"/pictures/{name}").status == 404


def test_a_checkpoint_says_how_to_fetch_it_without_software_of_ours(app: ASGIApp, made: MadeUp) -> None:
    text = unescape(got(app, f"/downloads/{made.newest_checkpoint}").text)
    path = f"/checkpoints/{made.newest_checkpoint}/transformer/diffusion_pytorch_model.safetensors"
    assert f"curl --fail --remote-name --continue-at - --insecure https://run.example:8400{path}" in text
    assert "from_pretrained" in text
    found = json.loads(got(app, f"/api/v1/downloads/{made.newest_checkpoint}").body)
    assert [file["path"] for file in found["files"]][::2] == [path.split("/", 3)[3], "manifest.json"]
    assert found["offer"]["manifest_sha256"] == found["files"][-1]["sha256"]
