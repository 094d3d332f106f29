"""The pages of a run that is served: they say what the ledger has, and what moves reaches a page that is open."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from coordinator.ledger import Ledger
from coordinator.web.guard import CONTENT_SECURITY_POLICY
from tests.integration.live_run import DEADLINE_SECONDS, LiveRun, Volunteer, encoded, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder


@pytest.fixture
def run(tmp_path: Path) -> Iterator[LiveRun]:
    folder = tiny_run_folder(
        tmp_path, "round.images=32", "checkpoint.grid_prompts=['a dark square', 'a bright square']"
    )
    with serving(folder) as live:
        yield live


def one_round(run: LiveRun, crew: list[Volunteer], number: int) -> None:
    data = encoded(run, 0.001 * number)
    while run.status()["version"] < number:
        for volunteer in crew:
            volunteer.submit(volunteer.lease(), data)


def live_updates(run: LiveRun) -> Iterator[dict[str, Any]]:
    with httpx2.stream("GET", f"{run.url}/api/v1/events", timeout=DEADLINE_SECONDS) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def test_pages_say_what_the_ledger_has_and_what_moves_reaches_an_open_page(run: LiveRun) -> None:
    with volunteers(run, 2) as crew:
        updates = live_updates(run)
        assert next(updates)["version"] == 0
        crew[0].token = crew[0].stub.Join(crew[0].join_request(team="the tide"), timeout=DEADLINE_SECONDS).session_token
        one_round(run, crew, 1)
        one_round(run, crew, 2)
        moved = next(update for update in updates if update["version"] >= 2)
        updates.close()
        assert moved["words"]["workers"] == "2"
        machines = run.get("/api/v1/machines").json()
        assert {row["worker_id"] for row in machines["rows"]} == {v.identity.worker_id for v in crew}

    with closing(Ledger(run.folder.ledger, read_only=True)) as ledger:
        newest = ledger.newest_version()
        credited = ledger.images_by_worker(newest.version)
    found = run.get("/api/v1/contributors").json()
    assert found["images"] == sum(credited.values()) == newest.images
    assert run.get("/api/v1/run").json()["progress"]["images"] == newest.images
    for worker, images in credited.items():
        assert run.get(f"/api/v1/workers/{worker}").json()["images"] == images
        assert f"<dd>{images:,}</dd>" in run.get(f"/workers/{worker}").text
    (team,) = run.get("/api/v1/contributors?by=team").json()["rows"]
    assert (team["name"], team["images"]) == ("the tide", credited[crew[0].identity.worker_id])
    assert run.address in run.get("/join").text


def test_every_answer_of_the_address_has_the_policy(run: LiveRun) -> None:
    blob = run.get("/run.json").json()["spec_sha256"]
    paths = [
        "/",
        "/run.json",
        "/status.json",
        "/healthz",
        "/metrics",
        f"/blobs/{blob}",
        "/blobs/x",
        "/checkpoints.json",
    ]
    for path in (*paths, "/judgements.json", "/rounds/1.json", "/nowhere", "/line-test?bytes=10"):
        answer = run.get(path)
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY, path
        assert answer.headers["x-content-type-options"] == "nosniff", path
    for style in re.findall(r'href="(/static/[^"]+)"', run.get("/").text):
        assert run.get(style).status_code == 200
