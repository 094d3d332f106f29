"""What an owner says on the command line while no worker runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from diffusion_at_home.cli import app
from diffusion_at_home.cli.output import run_command
from diffusion_at_home.errors import ConfigError, NotRunning
from tests.integration.command_line import Answer
from worker.state_folder import StateFolder


class Owner:
    """Of one state folder; says things in the test's own process, for there are many."""

    def __init__(self, root: Path, printed: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self.folder = StateFolder(root / "state")
        self._printed = printed

    def say(self, *words: str) -> Answer:
        command = typer.main.get_command(app)
        state_dir = () if words[:2] == ("config", "get") else ("--state-dir", str(self.root / "state"))
        arguments = ["worker", *words, *state_dir]
        code = run_command(lambda: command.main(arguments, prog_name="dah", standalone_mode=False), debug=False)
        return Answer(code, *self._printed.readouterr())


@pytest.fixture
def owner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Owner:
    return Owner(tmp_path, capsys)


def test_a_pause_without_a_worker_is_remembered_and_said_so(owner: Owner) -> None:
    paused = owner.say("pause", "--for", "2h", "--json").result
    assert (paused["running"], paused["wish"]) == (False, "paused")
    assert paused["says"].startswith("no worker runs here: the next one is paused until 20")
    assert owner.folder.pause.exists()
    assert owner.say("resume").out == "no worker runs here: the next one, by dah worker run, is not paused\n"
    assert not owner.folder.pause.exists()
    nobody = "no worker runs here: start one with dah worker run"
    assert owner.say("resume").refuses(NotRunning.exit_code) == nobody
    assert owner.say("stop", "--json").refuses(NotRunning.exit_code) == nobody


def test_leaving_forgets_the_run_and_keeps_the_receipts(owner: Owner) -> None:
    folder = owner.folder
    folder.remember("digits-1", "digits", ["https://host:8400"])
    kept = (folder.receipts("digits-1"), folder.identity)
    gone = (folder.residual("digits-1"), folder.outbox("digits-1") / "lease-1.json")
    for path in (*kept, *gone):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (owner.root / "state" / "notes.txt").write_text("mine")
    left = owner.say("leave", "--yes", "--json").result
    assert (left["left"], left["stopped"]) == ("digits-1", False)
    assert folder.joined_runs() == []
    assert [path.exists() for path in (*kept, *gone)] == [True, True, False, False]
    assert owner.say("leave", "--yes").refuses(ConfigError.exit_code).startswith("no run has been joined")
    owner.say("leave", "--yes", "--forget-everything", "--json").result  # noqa: B018 -- it must succeed
    assert [path.name for path in (owner.root / "state").iterdir()] == ["notes.txt"]


def test_settings_are_read_and_changed_by_their_keys(owner: Owner) -> None:
    file = owner.root / "worker.toml"
    file.write_text("# mine\ncache_gib = 5.0\n")
    changed = owner.say("config", "set", "threads", "2", "--config", str(file), "--json").result
    assert (changed["key"], changed["value"], changed["running"]) == ("threads", 2, False)
    assert file.read_text() == "# mine\ncache_gib = 5.0\nthreads = 2\n"
    assert owner.say("config", "get", "cache_gib", "--config", str(file)).out == "5.0\n"
    assert owner.say("config", "get", "--config", str(file), "--json").result["threads"] == 2


def test_the_log_is_shown_for_people_and_for_programs(owner: Owner) -> None:
    event = {"timestamp": "2026-11-28T12:00:00Z", "level": "info", "event": "joined", "run": "digits\x1b[2J"}
    owner.folder.log.write_text(f"{json.dumps(event | {'event': 'older'})}\n{json.dumps(event)}\n")
    assert owner.say("log", "-n", "1").out.endswith(" joined run=digits [2J\n")
    assert owner.say("log", "-n", "1", "--json").result == event
