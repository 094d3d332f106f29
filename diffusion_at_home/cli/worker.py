"""`dah worker`: give this machine's spare time to a run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffusion_at_home.cli import service
from diffusion_at_home.cli.output import emit, one_line
from diffusion_at_home.cli.worker_control import add_to
from diffusion_at_home.cli.worker_options import Config, Json, Overrides, StateDir, worker_settings

if TYPE_CHECKING:
    from diffusion_at_home.receipt import Line as ReceiptLine
    from diffusion_at_home.rpc.coordinator_pb2 import Hardware
    from worker.settings import WorkerSettings

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Train for a run on this machine.")

RunUrl = Annotated[str | None, typer.Argument(metavar="URL", help="A run's address.")]
RunFile = Annotated[Path | None, typer.Option("--config", help="A run's config instead of its address.")]


@app.command()
def join(
    urls: Annotated[
        list[str],
        typer.Argument(
            metavar="URL...",
            help="The run's address, for example https://host:8400/#FINGERPRINT; several are tried in turn.",
        ),
    ],
    config: Config = None,
    overrides: Overrides = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Be admitted to the run at URL and remember it. `dah worker run` then works for it."""
    from worker.joining import join_run

    settings = worker_settings(config, overrides, state_dir)
    joined = join_run(settings, urls, lambda: _hardware(settings), _say_busy)
    emit(joined.model_dump(mode="json"), as_json)


@app.command()
def run(
    urls: Annotated[
        list[str] | None,
        typer.Argument(metavar="[URL...]", help="The run's addresses; those of the last joined one if left out."),
    ] = None,
    config: Config = None,
    overrides: Overrides = None,
    state_dir: StateDir = None,
    leases: Annotated[int | None, typer.Option(min=1, help="Stop after this many leases were handed in.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Stop after this many images were credited.")] = None,
    as_json: Json = False,
) -> None:
    """Train until Ctrl-C. Once: hand in what is trained, then leave. Twice: leave at once."""
    from worker.joining import workplace
    from worker.state_folder import StateFolder

    settings = worker_settings(config, overrides, state_dir)
    folder = StateFolder(settings.state_dir)
    place = workplace(folder, urls or ())

    from worker.daemon import run_worker  # torch
    from worker.loop import Goal

    again = partial(worker_settings, config, overrides, state_dir)
    status = run_worker(settings, folder, place, Goal(leases=leases, images=images), again)
    emit(status.model_dump(mode="json"), as_json)


@app.command()
def plan(
    url: RunUrl = None,
    run_config: RunFile = None,
    vram: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory of an imagined GPU, as in 6GiB.")] = None,
    ram: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory of an imagined machine, as in 16GiB.")] = None,
    devices: Annotated[int | None, typer.Option(min=1, max=64, help="Number of imagined GPUs, used together.")] = None,
    try_all: Annotated[bool, typer.Option("--all", help="Measure every way, not only until one fits.")] = False,
    as_json: Json = False,
) -> None:
    """How this machine, or another, would train a run, and in how much memory. Downloads no data, needs no GPU."""
    source = _source(url, run_config)
    from worker.device import num_devices, open_device
    from worker.memory.choice import table
    from worker.memory.command import Imagined, plan_command
    from worker.memory.planning import this_machine

    settings = worker_settings(None, None, None)
    here = this_machine(open_device(settings), num_devices(settings), settings)
    made, found = plan_command(source, here, Imagined(vram, ram, devices), try_all=try_all)
    if as_json:
        emit(found, as_json)
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table("GiB at the peak", box=None, title=f"{found['run']} on {found['machine']}")
    for column in ("all", "weights", "grads", "state", "activ.", "CUDA", "host", "est. time", ""):
        shown.add_column(column, justify="right", no_wrap=True)
    for row in table(made.rungs, made.chosen):
        shown.add_row(*row)
    console = Console()
    console.print(shown)
    console.print(found["reason"])
    if found["chosen"] is not None:
        console.print(
            f"an image takes {found['chosen']['tflop_per_image']:g} TFLOP (10^12 multiplications and additions)"
        )
    if found["encoding"] is not None:
        console.print(found["encoding"]["reason"])


@app.command()
def bench(
    url: RunUrl = None,
    run_config: RunFile = None,
    overrides: Overrides = None,
    seconds: Annotated[float, typer.Option(min=0.1, max=86400, help="How long to train.")] = 20.0,
    as_json: Json = False,
) -> None:
    """How fast this machine trains a run, and in how much memory. Checks that it computes right; downloads no data."""
    source = _source(url, run_config)
    settings = worker_settings(None, overrides, None)
    from rich.console import Console

    from worker.bench import bench as measure  # torch
    from worker.memory.command import read_source

    with Console(stderr=True).status(f"checking, planning, then training for about {seconds:g} seconds"):
        found = measure(*read_source(source), settings, seconds).plain()
    if as_json:
        emit(found, as_json)
    else:
        _draw_bench(found)


@app.command()
def doctor(
    url: Annotated[
        str | None, typer.Argument(metavar="URL", help="The run's address; the last joined one if left out.")
    ] = None,
    config: Config = None,
    overrides: Overrides = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Whether this machine is fit to work, and if not, what to do. Trains nothing, joins nothing."""
    settings = worker_settings(config, overrides, state_dir)
    from diffusion_at_home.cli.diagnosis import draw
    from worker.doctor.report import diagnose  # torch

    found = diagnose(settings, url)
    if as_json:
        emit(found.plain(), as_json)
    else:
        draw(found, "This machine is fit to work.", "This machine cannot work yet.")
    raise typer.Exit(found.exit_code)


app.add_typer(service.app, name="service")
add_to(app)

receipts_app = typer.Typer(add_completion=False, help="What runs have received of this worker, signed by them.")
app.add_typer(receipts_app, name="receipts")

_RECEIPT_SAYS = (
    "what was received, and that nobody can deny it; not that it counted: what was left out is in the worker's log"
)


@receipts_app.callback(invoke_without_command=True)
def receipts(
    context: typer.Context,
    config: Config = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """List the receipts of this worker, and which of them hold. The files may be shown to anyone."""
    if context.invoked_subcommand is not None:
        return
    from diffusion_at_home.receipt import read_receipts
    from worker.state_folder import StateFolder

    folder = StateFolder(worker_settings(config, None, state_dir).state_dir)
    found = [(path, line) for path in folder.all_receipts() for line in read_receipts(path)]
    if as_json:
        listed = [_plain_receipt(path, line) for path, line in found]
        emit({"receipts": listed, "says": _RECEIPT_SAYS}, as_json)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("file", "receipts", "hold", "images", box=None)
    for path in dict.fromkeys(path for path, _ in found):
        lines = [line for other, line in found if other == path]
        sound = [line.receipt.received for line in lines if line.receipt and not line.problem]
        images = sum(received.images for received in sound)
        table.add_row(str(path), f"{len(lines):,}", f"{len(sound):,}", f"{images:,}")
    console = Console()
    console.print(table if found else "no receipts yet")
    for path, line in found:
        if line.problem:
            console.print(one_line(f"{path}: line {line.number} {line.problem}"), style="bold red", markup=False)
    console.print(f"A receipt says {_RECEIPT_SAYS}.")


@receipts_app.command("verify")
def receipts_verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Receipts, as a worker keeps them.")],
    key: Annotated[str, typer.Option("--key", metavar="HEX", help="The run's key: receipt_key of its /run.json.")] = "",
    as_json: Json = False,
) -> None:
    """Check every receipt in FILE, anybody's. Without --key: that each is signed by the key that it names itself."""
    from diffusion_at_home.errors import SignatureError
    from diffusion_at_home.receipt import read_receipts
    from diffusion_at_home.signing_key import parse_public_key

    lines = list(read_receipts(file, parse_public_key(key, "--key")))
    for line in lines:
        if line.problem:
            raise SignatureError(f"{file}: line {line.number} {line.problem}")
    held = [line.receipt for line in lines if line.receipt is not None]
    emit(
        {
            "receipts": len(held),
            "images": sum(receipt.received.images for receipt in held),
            "runs": sorted({receipt.received.run_id for receipt in held}),
            "workers": sorted({receipt.received.worker_id for receipt in held}),
            "keys": sorted({receipt.public_key for receipt in held}),
            "key_given": bool(key),
            "says": _RECEIPT_SAYS,
        },
        as_json,
    )


def _plain_receipt(path: Path, line: ReceiptLine) -> dict[str, Any]:
    received = {} if line.receipt is None else line.receipt.received.model_dump()
    return {**received, "file": str(path), "line": line.number, "holds": not line.problem, "problem": line.problem}


def _draw_bench(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    def figure(value: float | None) -> str:
        return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"

    speed = Table("", "min", "median", "max", box=None, title=f"{found['run']} on {found['machine']}")
    memory = Table("GiB at the peak", "planned", "measured", box=None)
    for name in ("images_per_second", "step_seconds"):
        speed.add_row(name.replace("_", " "), *(figure(found[name][column]) for column in ("min", "median", "max")))
    for name, planned, measured in (
        ("tensors on the device", "planned_device_gib", "measured_device_gib"),
        ("all on the device", "planned_with_overhead_gib", "measured_reserved_gib"),
        ("host", "planned_host_gib", "measured_host_gib"),
    ):
        if found[planned] is not None:
            memory.add_row(name, figure(found[planned]), figure(found[measured]))
    console = Console()
    console.print(speed)
    console.print(memory)
    console.print(
        f"It computes right. Trained {found['steps']} steps by the plan: {found['plan']}. "
        f"A lease of the most steps, {found['lease_steps']}, takes it {figure(found['lease_seconds'])} seconds."
    )


def _source(url: str | None, run_config: Path | None) -> Path | str:
    """A run's config or its address."""
    from diffusion_at_home.errors import ConfigError

    if (url is None) == (run_config is None):
        raise ConfigError("name a run's address or, with --config, its config file, and not both")
    return run_config or str(url)


def _say_busy(why: str, seconds: float) -> None:
    typer.echo(f"{one_line(why)}: trying again in {seconds:.0f} seconds", err=True)


def _hardware(settings: WorkerSettings) -> Hardware:
    from worker.device import describe, num_devices, open_device

    return describe(open_device(settings), num_devices(settings))
