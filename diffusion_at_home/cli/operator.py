"""`dah coordinator`: who may take part, and going back; noted in the run's ledger, also while it is served."""

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
    for command in (invite, uninvite, allow, disallow, ban, unban, revoke, rollback, actions):
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


def actions(folder: Folder, as_json: Json = False) -> None:
    """Who may take part in the run in DIR, and all that you have done."""
    found = _order(folder, lambda orders: orders.state())
    if as_json:
        emit(found, as_json)
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"enrolment: {found['enrolment']}")
    for title, rows in (("invitations", found["invites"]), ("banned", found["banned"])):
        if rows:
            table = Table(title=title, box=None, title_justify="left")
            for column in rows[0]:
                table.add_column(column.removesuffix("_ms"), no_wrap=True)
            for row in rows:
                table.add_row(*(_shown(name, value) for name, value in row.items()))
            console.print(table)
    if found["listed"]:
        console.print("listed:", *found["listed"])
    for action in found["actions"]:
        console.print(_time(action["at_ms"]), action["action"], action["subject"], action["note"], highlight=False)


def _act(folder: Path, order: Callable[[Orders], Any], as_json: bool) -> None:
    action = _order(folder, order)
    emit({"number": action.action_id, "action": action.kind.value, "subject": action.subject[:16]}, as_json)


def _order(folder: Path, order: Callable[[Orders], Any]) -> Any:
    from coordinator.orders import orders
    from coordinator.run_folder import RunFolder

    with orders(RunFolder(folder.absolute())) as given:
        return order(given)


def _shown(name: str, value: Any) -> str:
    return _time(value) if name.endswith("_ms") else str(value)


def _time(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M}" if ms else "never"
