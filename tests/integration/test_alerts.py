"""A webhook hears of what happens to a run, and the run's specification has nothing of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from threading import Event

import pytest

from coordinator.alerts.command import set_alerts
from coordinator.orders import orders
from coordinator.run_folder import RunFolder
from diffusion_at_home.errors import ConfigError
from tests.integration.live_run import encoded, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder
from tests.unit.webhook import Webhook, webhook

ROUNDS = ("round.images=8", "lease.max_steps=1", "lease.min_steps=1", "lease.probe_steps=1")
QUIET = ("evaluation.every_images=100000", "checkpoint.every_images=100000")
PATIENCE_SECONDS = 60.0


def told(hook: Webhook, kind: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while kind not in hook.kinds():
        assert time.monotonic() < deadline, hook.bodies
        Event().wait(0.05)


def test_a_webhook_that_is_set_while_the_run_is_served_hears_of_problems_and_of_going_back(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *ROUNDS, *QUIET)
    secret = tmp_path / "url"
    with webhook() as hook, serving(folder) as run:
        secret.write_text(hook.url)
        asked = set_alerts(folder, url_file=secret, silence_minutes=None, off=False, test=True)
        assert (asked["on"], asked["host"], asked["tested"]) == (True, "127.0.0.1", True)
        assert hook.kinds() == ["test"]
        (folder.root / "rotations.json").write_text("{")  # no rotations: found when the checkpoints are listed
        run.get("/checkpoints.json")
        told(hook, "problem")
        with volunteers(run, 1) as (anna,):
            for number in (1, 2):
                anna.submit(anna.lease(), encoded(run, 0.001))
                run.wait_for_version(number)
        with orders(folder) as given:
            given.rollback(1, "it draws noise")
        told(hook, "rollback")
        public = [run.get(page).text for page in ("/run.json", "/status.json", "/metrics")]
        public += [path.read_bytes().decode(errors="replace") for path in folder.blobs.iterdir()]
    assert not any("secret-path" in text for text in public)
    assert hook.bodies[0]["run"].startswith("tiny-")


def test_who_is_told_is_set_changed_and_taken_away(tmp_path: Path) -> None:
    folder, file = RunFolder(tmp_path), tmp_path / "url"
    folder.ledger.touch()
    file.write_text("https://hooks.example.org/secret")
    nothing = {"url_file": None, "silence_minutes": None, "off": False, "test": False}
    assert set_alerts(folder, **nothing)["on"] is False  # type: ignore[arg-type]
    for wrong in ({"test": True}, {"silence_minutes": 1.0}, {"off": True, "test": True}, {"url_file": tmp_path / "no"}):
        with pytest.raises(ConfigError):
            set_alerts(folder, **(nothing | wrong))  # type: ignore[arg-type]
    found = set_alerts(folder, **(nothing | {"url_file": file, "silence_minutes": 5.0}))  # type: ignore[arg-type]
    assert found == {"on": True, "host": "hooks.example.org", "silence_minutes": 5.0, "tested": False}
    assert "secret" not in json.dumps(found)
    assert set_alerts(folder, **(nothing | {"off": True}))["on"] is False  # type: ignore[arg-type]
    assert not folder.alerts.exists()
