"""`dah coordinator`: make a run, serve it, look at it."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffusion_at_home.cli import audit, operator
from diffusion_at_home.cli.output import emit

if TYPE_CHECKING:
    from coordinator.run_folder import RunFolder
    from diffusion_at_home.config.run import ServerSection

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Launch and watch a training run.")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The run's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")]


@app.command()
def init(
    folder: Folder,
    config: Annotated[Path, typer.Option("--config", help="The run's config, for example configs/digits.toml.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a new run in DIR: check the data, train the tokenizer, draw the initial weights."""
    from diffusion_at_home.config.run import RunConfig
    from diffusion_at_home.config.toml import load_toml

    settings = load_toml(config, RunConfig, overrides or ())

    from coordinator.init import init_run
    from coordinator.run_folder import RunFolder

    made = init_run(RunFolder(folder.absolute()), settings)
    emit(dataclasses.asdict(made), as_json)


@app.command()
def run(
    folder: Folder,
    host: Annotated[str | None, typer.Option(help="Address to listen on instead of server.host.")] = None,
    http_port: Annotated[int | None, typer.Option(help="Port of the run's address; 0 picks a free one.")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="Port of the worker protocol; 0 picks a free one.")] = None,
    threads: Annotated[int | None, typer.Option(min=0, help="CPU threads instead of server.threads.")] = None,
    quota_gib: Annotated[
        float | None,
        typer.Option(min=0.0, help="Most that DIR may hold (GiB) instead of storage.quota_gib; 0 is no limit."),
    ] = None,
    exit_when_complete: Annotated[
        bool,
        typer.Option(
            "--exit-when-complete", help="Stop once the last checkpoint is out and judged, and the workers know."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Serve the run in DIR until Ctrl-C; start it again and it goes on where it was.

    If a server has the run's ledger, and another process serves the run, this one stands by and takes over when that is gone.
    """
    from coordinator.run_folder import RunFolder
    from diffusion_at_home import events

    place = RunFolder(folder.absolute())
    with place.locked(wait=_stand_by if place.ledger_url.is_file() else None):
        events.configure(place.log)
        changes = {"host": host, "http_port": http_port, "grpc_port": grpc_port, "threads": threads}
        given = {key: value for key, value in changes.items() if value is not None}
        version = asyncio.run(_serve(place, given, quota_gib, exit_when_complete=exit_when_complete))
    emit({"version": version}, as_json)


@app.command()
def status(folder: Folder, as_json: Json = False) -> None:
    """What the run in DIR has reached, whether or not its coordinator runs."""
    from coordinator.best import best_of
    from coordinator.housekeeping import set_aside
    from coordinator.ledger import Ledger
    from coordinator.orders import config_of
    from coordinator.run_folder import RunFolder
    from coordinator.standing_orders import draining, told
    from coordinator.status import read_status
    from coordinator.storage_survey import quota_bytes, read_records, survey

    place = RunFolder(folder.absolute())
    place.check()
    ledger = Ledger(place.ledger, read_only=True)
    found = read_status(ledger)
    drain = draining(ledger.actions())
    config = config_of(place, ledger)
    storage = survey(place, config, ledger.versions(), read_records(ledger), quota_bytes(place, config))
    ledger.close()
    best, judged = best_of(found.checkpoints), found.judgements
    running = place.is_running()
    emit(
        {
            "run_id": found.run_id,
            "running": running,
            "draining": told(drain),
            "address": place.address.read_text() if running and place.address.is_file() else None,
            "version": found.version,
            "images": found.images,
            "workers": found.workers,
            "contributions": found.contributions,
            "left_out": found.left_out,
            "active_leases": found.active_leases,
            "held_out_loss": found.held_out_loss,
            "checkpoints": [checkpoint.name for checkpoint in found.checkpoints],
            "best_checkpoint": best.name if best else None,
            "latest_judgement": dataclasses.asdict(judged[-1]) if judged else None,
            "disk_bytes": storage.used_bytes,
            "storage": dataclasses.asdict(storage) if as_json else storage.sentence,
            "set_aside": set_aside(place),
        },
        as_json,
    )


@app.command()
def doctor(
    folder: Folder,
    backup: Annotated[Path | None, typer.Option(help="The run's backup, to see how old it is.")] = None,
    as_json: Json = False,
) -> None:
    """Whether the run in DIR is fit to be served by this machine, and if not, what to do. Changes nothing."""
    from coordinator.doctor.report import diagnose
    from coordinator.run_folder import RunFolder
    from diffusion_at_home.cli.diagnosis import draw

    found = diagnose(RunFolder(folder.absolute()), None if backup is None else backup.absolute())
    if as_json:
        emit(found.plain(), as_json)
    else:
        draw(found, "This run is fit to be served.", "This run is not fit to be served yet.")
    raise typer.Exit(found.exit_code)


@app.command()
def replay(folder: Folder, as_json: Json = False) -> None:
    """Recompute every version of the run in DIR from its contributions and compare it with what was published."""
    from coordinator.replay import replay as replayed
    from coordinator.run_folder import RunFolder

    emit(dataclasses.asdict(replayed(RunFolder(folder.absolute()))), as_json)


@app.command()
def backup(
    folder: Folder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The backup's folder, new or of this run.")],
    as_json: Json = False,
) -> None:
    """Make OUT a consistent copy of the run in DIR, also while its coordinator serves it; again, and only what is new is copied.

    OUT is best on a mounted disk of another machine; or take OUT there afterwards: rsync -a --delete OUT/ HOST:OUT/
    """
    from coordinator.backup import back_up
    from coordinator.run_folder import RunFolder

    emit(dataclasses.asdict(back_up(RunFolder(folder.absolute()), RunFolder(out.absolute()))), as_json)


@app.command()
def restore(
    backup: Annotated[Path, typer.Argument(metavar="BACKUP", help="A folder made by `dah coordinator backup`.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The run's folder, new.")],
    as_json: Json = False,
) -> None:
    """Check BACKUP and make a run of it in DIR, for `dah coordinator run`; what the run did since the backup is lost.

    The old coordinator must be gone for good: two that serve one run share its volunteers, and each loses what the other gets.
    Volunteers follow by themselves once the run's address (its DNS name) leads to the new machine.
    """
    from coordinator.restore import restore as restored
    from coordinator.run_folder import RunFolder

    emit(dataclasses.asdict(restored(RunFolder(backup.absolute()), RunFolder(folder.absolute()))), as_json)


@app.command("move-ledger")
def move_ledger(
    folder: Folder,
    url: Annotated[
        str,
        typer.Argument(
            metavar="[URL]",
            envvar="DAH_LEDGER_URL",
            help="An empty database of a PostgreSQL server: postgresql://USER@HOST/DATABASE; a password is best in ~/.pgpass.",
        ),
    ] = "",
    back: Annotated[bool, typer.Option("--back", help="From the server to a file in DIR instead.")] = False,
    as_json: Json = False,
) -> None:
    """Move the ledger of the run in DIR, which nobody may serve meanwhile, to a PostgreSQL server, or back."""
    from coordinator.ledger_move import move_back, move_to_server
    from coordinator.run_folder import RunFolder
    from diffusion_at_home.errors import ConfigError

    place = RunFolder(folder.absolute())
    if not back and not url:
        raise ConfigError("name the server's database as URL, or --back")
    emit(dataclasses.asdict(move_back(place) if back else move_to_server(place, url)), as_json)


def _stand_by(why: str) -> None:
    """Be ready: what takes long is loaded now."""
    import coordinator.app  # noqa: F401

    typer.echo(f"{why}: standing by, to take over when that is gone", err=True)


async def _serve(
    place: RunFolder, changes: dict[str, Any], quota_gib: float | None, *, exit_when_complete: bool
) -> int:
    from coordinator.app import Coordinator

    coordinator = Coordinator(place, quota_gib)
    place.quota.unlink(missing_ok=True)
    if quota_gib is not None:
        place.quota.write_text(str(quota_gib))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server: ServerSection = coordinator.server.model_copy(update=changes)
    try:
        await coordinator.serve(
            server, stop=stop, on_ready=lambda url: _announce(place, url), exit_when_complete=exit_when_complete
        )
    finally:
        coordinator.close()
        place.address.unlink(missing_ok=True)
        place.quota.unlink(missing_ok=True)
    return coordinator.version


def _announce(place: RunFolder, url: str) -> None:
    place.address.write_text(url)
    typer.echo(f"{url} is open. Volunteers join with: dah worker join {url}", err=True)


app.command()(audit.audit)
operator.add_to(app)
