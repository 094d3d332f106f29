"""`dah worker`: what its owner says to a running worker, and reads of it."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffusion_at_home.cli.output import emit, one_line
from diffusion_at_home.cli.worker_options import Config, Json, Overrides, StateDir, worker_settings

if TYPE_CHECKING:
    from worker.control.messages import Reply
    from worker.state_folder import StateFolder

AtOnce = Annotated[bool, typer.Option("--now", help="Give the lease back instead of handing in what is trained.")]


def add_to(app: typer.Typer) -> None:
    """The commands."""
    for command in (pause, resume, finish, stop, status, log, leave):
        app.command()(command)
    app.add_typer(config_app, name="config")


def pause(
    duration: Annotated[
        str, typer.Option("--for", metavar="TIME", help="How long, as in 90m, 2h or 1d12h; until `resume` if left out.")
    ] = "",
    at_once: AtOnce = False,
    config: Config = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Stop training and give the memory back, until `resume`. A restart changes nothing about it."""
    from diffusion_at_home.errors import NotRunning
    from worker.control.client import ask
    from worker.control.duration import parse_duration
    from worker.control.messages import Request, Verb
    from worker.control.pause_file import PauseFile
    from worker.control.wishes import Pause

    length = parse_duration(duration, "--for") if duration else None
    folder = _folder(config, state_dir)
    seconds = None if length is None else length.total_seconds()
    try:
        reply = ask(folder, Request(verb=Verb.PAUSE, seconds=seconds, at_once=at_once))
    except NotRunning:
        until = None if length is None else datetime.now(UTC) + length
        with folder.locked():
            PauseFile(folder.pause).write(Pause(until))
        says = f"no worker runs here: the next one is paused{_until(until)}"
        _say({"running": False, "wish": "paused", "paused_until": until}, says, as_json)
        return
    then = "its lease is given back" if at_once else "what is trained is handed in after the step at hand"
    _say(_facts(reply), f"paused{_until(reply.paused_until)}: {then}", as_json)


def resume(config: Config = None, state_dir: StateDir = None, as_json: Json = False) -> None:
    """End a pause, and take `finish` back."""
    from diffusion_at_home.errors import ConfigError, NotRunning
    from worker.control.client import ask
    from worker.control.messages import Request, Verb
    from worker.control.pause_file import PauseFile

    folder = _folder(config, state_dir)
    try:
        reply = ask(folder, Request(verb=Verb.RESUME))
    except NotRunning:
        file = PauseFile(folder.pause)
        try:
            was_paused = file.read() is not None
        except ConfigError:
            was_paused = True  # by what is damaged
        if not was_paused:
            raise
        with folder.locked():
            file.write(None)
        says = "no worker runs here: the next one, by dah worker run, is not paused"
        _say({"running": False, "wish": "running", "paused_until": None}, says, as_json)
        return
    _say(_facts(reply), "it may work; dah worker status says what it does", as_json)


def finish(config: Config = None, state_dir: StateDir = None, as_json: Json = False) -> None:
    """End the worker once its lease is trained and handed in, whole."""
    from worker.control.client import ask
    from worker.control.messages import Request, Verb

    reply = ask(_folder(config, state_dir), Request(verb=Verb.FINISH))
    _say(_facts(reply), "it ends after the lease at hand", as_json)


def stop(at_once: AtOnce = False, config: Config = None, state_dir: StateDir = None, as_json: Json = False) -> None:
    """End the worker: it hands in what is trained, then leaves. Returns when it has ended."""
    from worker.control.client import ask
    from worker.control.messages import Request, Verb
    from worker.progress import read_status

    folder = _folder(config, state_dir)
    reply = ask(folder, Request(verb=Verb.STOP, at_once=at_once))
    _wait_for_end(folder)
    last = read_status(folder.status).model_dump(mode="json", include={"state", "reason"})
    _say({**_facts(reply), **last, "running": False}, "it has ended", as_json)


def status(
    config: Config = None, overrides: Overrides = None, state_dir: StateDir = None, as_json: Json = False
) -> None:
    """What the worker on this machine does, and why."""
    from worker.progress import read_status
    from worker.state_folder import StateFolder

    folder = StateFolder(worker_settings(config, overrides, state_dir).state_dir)
    found = read_status(folder.status)
    running, wish, paused_until = _wish(folder)
    if as_json:
        wished = {"running": running, "wish": wish, "paused_until": paused_until}
        emit({**wished, **found.model_dump(mode="json")}, as_json)
        return
    from diffusion_at_home.cli.worker_status import paused_lines, status_lines

    now = datetime.now(UTC)
    if running:
        emit(status_lines(found, wish=wish, paused_until=paused_until, now=now), as_json)
    else:
        paused = paused_lines(paused_until, now) if wish == "paused" else {}
        emit({**status_lines(found, wish=None, paused_until=None, now=now), **paused}, as_json)


def log(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=1_000_000, help="How many of the last ones.")] = 20,
    config: Config = None,
    state_dir: StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each event as the JSON object that it is.")] = False,
) -> None:
    """What the worker has done, and what it does."""
    from worker.control.event_log import coming_lines, last_lines, readable

    def show(line: str) -> None:
        typer.echo(line.rstrip("\n") if as_json else one_line(readable(line)))

    path = _folder(config, state_dir).log
    for line in last_lines(path, lines):
        show(line)
    if follow:
        for line in coming_lines(path, threading.Event()):
            show(line)


config_app = typer.Typer(no_args_is_help=True, add_completion=False, help="Read and change your settings.")


@config_app.command("get")
def config_get(
    key: Annotated[str, typer.Argument(metavar="[KEY]", help="One of them; all if left out.")] = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Print your settings, also those left as they were."""
    from worker.control.settings_file import value_of

    settings = worker_settings(config, None, None)
    if not key:
        emit(settings.model_dump(mode="json"), as_json)
        return
    value = value_of(settings, key)
    if as_json or isinstance(value, dict):
        emit({"key": key, "value": value} if as_json else value, as_json)
    else:
        typer.echo(one_line(str(value)) if isinstance(value, str) else json.dumps(value))


@config_app.command("set")
def config_set(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The setting, as in up_mbit_per_second.")],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="As it is written in the file; words need no quotes.")],
    config: Config = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Change one setting; the rest of your file stays as it is.

    A running worker hears of it: rules of when to work hold at once, the rest from its next stretch of work on.
    """
    from diffusion_at_home.errors import NotRunning
    from worker.control.client import ask
    from worker.control.messages import Request, Verb
    from worker.control.settings_file import set_value, value_of
    from worker.settings import default_settings_file

    path = config or default_settings_file()
    settings = set_value(path, key, value)
    try:
        ask(_folder(config, state_dir), Request(verb=Verb.RELOAD))
        running, says = True, "rules of when to work hold at once, the rest from its next stretch of work on"
    except NotRunning:
        running, says = False, "it holds from the next start of a worker on"
    found = {"key": key, "value": value_of(settings, key), "file": str(path), "running": running}
    _say(found, f"set in {path}: {says}", as_json)


def leave(
    forget_everything: Annotated[
        bool,
        typer.Option("--forget-everything", help="Delete key, receipts, log and downloads too, of all runs."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: Config = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Leave the run joined last: end the worker, give its lease back, forget the run. Key and receipts are kept."""
    from diffusion_at_home.errors import ConfigError, NotRunning
    from worker.control.client import ask
    from worker.control.leaving import forget, forget_all
    from worker.control.messages import Request, Verb

    settings = worker_settings(config, None, state_dir)
    folder = _folder(config, state_dir)
    joined = folder.joined_runs()
    if not joined and not forget_everything:
        raise ConfigError("no run has been joined, so there is none to leave")
    run = joined[0].run_id if joined else ""
    if not yes:
        what = "Delete the worker's key, receipts, log and downloads" if forget_everything else f"Leave the run {run}"
        typer.confirm(f"{what}?", abort=True, err=True)
    try:
        ask(folder, Request(verb=Verb.STOP, at_once=True))
        stopped = True
    except NotRunning:
        stopped = False
    if stopped:
        _wait_for_end(folder)
    if forget_everything:
        forget_all(folder, settings)
    else:
        forget(folder, run)
    kept = "nothing is kept" if forget_everything else "its receipts and this worker's key are kept"
    _say({"left": run, "stopped": stopped, "forgot_everything": forget_everything}, f"left {run}: {kept}", as_json)


def _folder(config: Path | None, state_dir: Path | None) -> StateFolder:
    from worker.state_folder import StateFolder

    return StateFolder(worker_settings(config, None, state_dir).state_dir)


def _wish(folder: StateFolder) -> tuple[bool, str, datetime | None]:
    """Whether a worker runs; and what its owner wants, by its word or as the next one will find it: the wish, a pause's end."""
    from diffusion_at_home.errors import DahError, NotRunning
    from worker.control.client import ask
    from worker.control.messages import Request, Verb
    from worker.control.pause_file import PauseFile
    from worker.control.wishes import Wishes

    try:
        reply = ask(folder, Request(verb=Verb.STATUS))
        return True, reply.wish.value, reply.paused_until
    except NotRunning:
        now = datetime.now(UTC)
        wishes = Wishes(PauseFile(folder.pause).read()).at(now)
        return False, wishes.wish(now).value, None if wishes.pause is None else wishes.pause.until
    except DahError:  # it runs and does not answer: its status file may still tell why
        return True, "unknown", None


def _wait_for_end(folder: StateFolder) -> None:
    while folder.in_use:
        time.sleep(0.1)


def _facts(reply: Reply) -> dict[str, Any]:
    facts = reply.model_dump(mode="json", exclude={"refused"})
    return {"running": True, **facts}


def _until(until: datetime | None) -> str:
    return f" until {until.astimezone():%Y-%m-%d %H:%M}" if until else ""


def _say(found: dict[str, Any], sentence: str, as_json: bool) -> None:
    if as_json:
        emit({**found, "says": sentence}, as_json)
    else:
        typer.echo(one_line(sentence))
