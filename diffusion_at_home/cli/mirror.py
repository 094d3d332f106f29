"""`dah mirror`: pass a run's bytes on, from a disk of one's own."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffusion_at_home.cli.output import emit

if TYPE_CHECKING:
    from coordinator.mirroring.app import Tally
    from coordinator.mirroring.serve import MirrorPlan

app = typer.Typer(add_completion=False, help="Pass a run's bytes on to its volunteers.")

_GB = 10**9


@app.command()
def mirror(
    address: Annotated[str, typer.Argument(metavar="URL", help="The run's address.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the bytes; another start goes on with it.")],
    disk_gb: Annotated[
        float, typer.Option(min=0.001, help="Most bytes to keep (GB); the longest unused go first.")
    ] = 50.0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8410,
    fetches: Annotated[int, typer.Option(min=1, max=64, help="Blobs fetched from the run at once.")] = 4,
    certificate: Annotated[
        Path | None, typer.Option(help="Certificate and its chain (PEM); without one, put what speaks https in front.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object at the end.")] = False,
) -> None:
    """Serve the blobs of the run at URL from DIR until Ctrl-C, fetching each once.

    Volunteers' workers use it once the run's operator has listed its https address.
    """
    from coordinator.certificate import Certificate
    from coordinator.mirroring.serve import MirrorPlan
    from diffusion_at_home.errors import ConfigError

    if (certificate is None) != (key is None):
        raise ConfigError("a certificate needs its key, and a key its certificate: give both --certificate and --key")
    for file in (certificate, key):
        if file is not None and not file.is_file():
            raise ConfigError(f"{file} does not exist: name a file in PEM")
    chain = None if certificate is None or key is None else Certificate(certificate, key, pin="")
    plan = MirrorPlan(address, folder.absolute(), int(disk_gb * _GB), host, port, fetches, chain)
    emit(dataclasses.asdict(asyncio.run(_serve(plan))), as_json)


async def _serve(plan: MirrorPlan) -> Tally:
    from coordinator.mirroring.serve import serve_mirror

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return await serve_mirror(plan, stop=stop, on_ready=_announce)


def _announce(run_id: str, url: str) -> None:
    typer.echo(f"{url} mirrors {run_id}. Give its https address to the run's operator.", err=True)
