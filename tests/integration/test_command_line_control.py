"""What an owner says on the command line while no worker runs."""

from __future__ import annotations

import json
from pathlib import Path

from diffusion_at_home.errors import ConfigError, NotRunning
from tests.integration.command_line import Answer, dah
from worker.state_folder import StateFolder


class Owner:
    """Of one state folder."""

    def __init__(self, root: Path) -> None:
        self.folder = StateFolder(root / "state")
        self._state_dir = ("--state-dir", root / "state")

    def say(self, *words: str) -> Answer:
        return dah("worker", *words, *self._state_dir)


def test_a_pause_without_a_worker_is_remembered_and_said_so(tmp_path: Path) -> None:
    owner = Owner(tmp_path)
    paused = owner.say("pause", "--for", "2h", "--json").result
    assert (paused["running"], paused["wish"]) == (False, "paused")
    assert paused["says"].startswith("no worker runs here: the next one is paused until 20")
    assert owner.folder.pause.exists()
    assert owner.say("resume").out == "no worker runs here: the next one, by dah worker run, is not paused\n"
    assert not owner.folder.pause.exists()
    nobody = "no worker runs here: start one with dah worker run"
    assert owner.say("resume").refuses(NotRunning.exit_code) == nobody
    assert owner.say("stop", "--json").refuses(NotRunning.exit_code) == nobody


def test_leaving_forgets_the_run_and_keeps_the_receipts(tmp_path: Path) -> None:
    owner, folder = Owner(tmp_path), Owner(tmp_path).folder
    folder.remember("digits-1", "digits", ["https://host:8400"])
    kept = (folder.receipts("digits-1"), folder.identity)
    gone = (folder.residual("digits-1"), folder.outbox("digits-1") / "lease-1.json")
    for path in (*kept, *gone):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / "state" / "notes.txt").write_text("mine")
    left = owner.say("leave", "--yes", "--json").result
    assert (left["left"], left["stopped"]) == ("digits-1", False)
    assert folder.joined_runs() == []
    assert [path.exists() for path in (*kept, *gone)] == [True, True, False, False]
    assert owner.say("leave", "--yes").refuses(ConfigError.exit_code).startswith("no run has been joined")
    owner.say("leave", "--yes", "--forget-everything", "--json").result  # noqa: B018 -- it must succeed
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["notes.txt"]


def test_settings_are_read_and_changed_by_their_keys(tmp_path: Path) -> None:
    owner, file = Owner(tmp_path), tmp_path / "worker.toml"
    file.write_text("# mine\ncache_gib = 5.0\n")
    changed = owner.say("config", "set", "threads", "2", "--config", str(file), "--json").result
    assert (changed["key"], changed["value"], changed["running"]) == ("threads", 2, False)
    assert file.read_text() == "# mine\ncache_gib = 5.0\nthreads = 2\n"
    assert dah("worker", "config", "get", "cache_gib", "--config", file).out == "5.0\n"
    assert dah("worker", "config", "get", "--config", file, "--json").result["threads"] == 2


def test_the_log_is_shown_for_people_and_for_programs(tmp_path: Path) -> None:
    owner = Owner(tmp_path)
    event = {"timestamp": "2026-11-28T12:00:00Z", "level": "info", "event": "joined", "run": "digits\x1b[2J"}
    owner.folder.log.write_text(f"{json.dumps(event | {'event': 'older'})}\n{json.dumps(event)}\n")
    assert owner.say("log", "-n", "1").out.endswith(" joined run=digits [2J\n")
    assert owner.say("log", "-n", "1", "--json").result == event
