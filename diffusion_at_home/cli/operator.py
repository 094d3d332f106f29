"""`dah coordinator`: who may take part, going back, pausing, publishing; noted in the ledger, also while the run is served."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffusion_at_home.cli.output import emit

if TYPE_CHECKING:
    from coordinator.orders import Orders

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The run's folder.")]
Worker = Annotated[str, typer.Argument(metavar="WORKER", help="A worker's id: 16 hexadecimal digits.")]
Note = Annotated[str, typer.Option(help="Why, for the log of your actions; a banned worker is told it.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")]


def add_to(app: typer.Typer) -> None:
    """The commands."""
    commands = (invite, uninvite, allow, disallow, ban, unban, revoke, rollback)
    for command in (*commands, drain, resume, publish, note, actions, alerts, login):
        app.command()(command)


def invite(
    folder: Folder,
    uses: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many workers may join with it.")] = 1,
    days: Annotated[float, typer.Option(min=0.0, max=36_500.0, help="Days until it runs out; 0 is never.")] = 30.0,
    note: Note = "",
    as_json: Json = False,
) -> None:
    """Make an address with a code, for whom you want to join the run in DIR. The code is shown once."""
    made = _order(folder, lambda orders: orders.invite(uses=uses, days=days, note=note))
    emit(dataclasses.asdict(made), as_json)


def uninvite(
    folder: Folder,
    name: Annotated[str, typer.Argument(metavar="INVITE", help="The invitation, as `actions` lists it.")],
    as_json: Json = False,
) -> None:
    """Take an invitation back. Who has joined with it stays."""
    _act(folder, lambda orders: orders.uninvite(name), as_json)


def allow(folder: Folder, worker: Worker, note: Note = "", as_json: Json = False) -> None:
    """Put WORKER on the list of those who may join the run in DIR."""
    _act(folder, lambda orders: orders.allow(worker, note), as_json)


def disallow(folder: Folder, worker: Worker, note: Note = "", as_json: Json = False) -> None:
    """Take WORKER off the list: it is out at once."""
    _act(folder, lambda orders: orders.disallow(worker, note), as_json)


def ban(
    folder: Folder,
    worker: Worker,
    days: Annotated[float, typer.Option(min=0.0, max=36_500.0, help="Days until it may come back; 0 is never.")] = 0.0,
    note: Note = "",
    as_json: Json = False,
) -> None:
    """Shut WORKER out of the run in DIR. What it gave to the round that is open does not count."""
    _act(folder, lambda orders: orders.ban(worker, days=days, note=note), as_json)


def unban(folder: Folder, worker: Worker, as_json: Json = False) -> None:
    """Let WORKER in again."""
    _act(folder, lambda orders: orders.unban(worker), as_json)


def revoke(folder: Folder, worker: Worker, as_json: Json = False) -> None:
    """End WORKER's session, whose token others may know. It joins again by itself, with its key."""
    _act(folder, lambda orders: orders.revoke(worker), as_json)


def rollback(
    folder: Folder,
    version: Annotated[int, typer.Argument(metavar="VERSION", min=0, help="The version to go back to.")],
    note: Note = "",
    as_json: Json = False,
) -> None:
    """End the open round, and make VERSION the newest one again, with a new number. What came after it stays undone."""
    _act(folder, lambda orders: orders.rollback(version, note), as_json)


def drain(folder: Folder, note: Note = "", as_json: Json = False) -> None:
    """Let the run in DIR come to rest: leases that are out are handed in, no more are granted, all stays served."""
    _act(folder, lambda orders: orders.drain(note), as_json)


def resume(folder: Folder, note: Note = "", as_json: Json = False) -> None:
    """Go on after `drain`."""
    _act(folder, lambda orders: orders.resume(note), as_json)


def publish(folder: Folder, note: Note = "", as_json: Json = False) -> None:
    """Make a checkpoint of the newest version now, beside the scheduled ones; once for a version."""
    made = _order(folder, lambda orders: orders.publish(note))
    emit({**dataclasses.asdict(made), "there_already": bool(made.checkpoint)}, as_json)


def note(
    folder: Folder,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="One line; everybody can read it.")],
    as_json: Json = False,
) -> None:
    """Write TEXT into the run's log, which its page shows."""
    _act(folder, lambda orders: orders.note(text), as_json)


def actions(folder: Folder, as_json: Json = False) -> None:
    """Who may take part in the run in DIR, and all that you have done."""
    found = _order(folder, lambda orders: orders.state())
    if as_json:
        emit(found, as_json)
        return
    lines = [f"enrolment: {found['enrolment']}", f"draining: {'yes' if found['draining'] else 'no'}"]
    lines += [
        f"invitation {one['invite']}: {one['left']} left, until {_time(one['until_ms'])} {one['note']}"
        for one in found["invites"]
    ]
    lines += [f"listed: {worker}" for worker in found["listed"]]
    lines += [
        f"banned: {one['worker']} {one['name']!r} until {_time(one['until_ms'])} {one['note']}"
        for one in found["banned"]
    ]
    lines += [f"{_time(one['at_ms'])} {one['action']} {one['subject']} {one['note']}" for one in found["actions"]]
    typer.echo("\n".join(line.rstrip() for line in lines))


def alerts(
    folder: Folder,
    url_file: Annotated[
        Path | None,
        typer.Option(
            help="File with one line, the webhook's address, which is a secret: copied, then yours to delete."
        ),
    ] = None,
    silence_minutes: Annotated[
        float | None,
        typer.Option(min=0.0, max=100_000.0, help="Without any worker, after which you are told; 0 is never. [30]"),
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Tell nobody any more.")] = False,
    test: Annotated[bool, typer.Option("--test", help="Send a message now.")] = False,
    as_json: Json = False,
) -> None:
    """Have Slack, Mattermost, Discord, ntfy or a script of yours told of problems of the run in DIR; or say who is told."""
    from coordinator.alerts.command import set_alerts
    from coordinator.run_folder import RunFolder

    emit(
        set_alerts(
            RunFolder(folder.absolute()), url_file=url_file, silence_minutes=silence_minutes, off=off, test=test
        ),
        as_json,
    )


def login(folder: Folder, as_json: Json = False) -> None:
    """Print a link that lets one browser use the operator's page of the run in DIR; it is good once, for ten minutes."""
    from coordinator.login import make_login
    from coordinator.run_folder import RunFolder

    made = make_login(RunFolder(folder.absolute()))
    if as_json:
        emit(dataclasses.asdict(made), as_json)
        return
    typer.echo(made.address)
    if made.fingerprint:
        typer.echo(
            f"The browser does not know the run's own certificate: go on only if its sha256 is {made.fingerprint}",
            err=True,
        )


def _act(folder: Path, order: Callable[[Orders], Any], as_json: bool) -> None:
    action = _order(folder, order)
    emit({"number": action.action_id, "action": action.kind.value, "subject": action.subject[:16]}, as_json)


def _order(folder: Path, order: Callable[[Orders], Any]) -> Any:
    from coordinator.orders import orders
    from coordinator.run_folder import RunFolder

    with orders(RunFolder(folder.absolute())) as given:
        return order(given)


def _time(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M}" if ms else "never"
