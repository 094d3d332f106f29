"""`dah demo`: everything at once, on this machine."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffusion_at_home.cli.output import emit

if TYPE_CHECKING:
    from diffusion_at_home.demo.demo import Status

app = typer.Typer(add_completion=False, help="Train a small model with real processes on this machine.")


@app.command()
def demo(
    config: Annotated[Path, typer.Option(help="The run's config.")] = Path("configs/digits.toml"),
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 3,
    images: Annotated[int | None, typer.Option(min=1, help="Images to train instead of run.total_images.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for everything; an unfinished demo in it goes on. runs/demo-NAME of the config if left out."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object at the end.")] = False,
) -> None:
    """Build the data set, launch a coordinator and workers, train from random weights, draw with the result and judge it.

    configs/digits.toml takes minutes, configs/emoji.toml an hour or two.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from diffusion_at_home.demo.demo import DemoPlan, run_demo

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no process of the demo may outlive it
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        BarColumn(bar_width=10),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=None, visible=False)

        def show(status: Status) -> None:
            in_round = status["live"]["accepted_images"] if status["live"]["round_number"] else 0
            progress.update(
                task,
                total=status["total_images"],
                completed=status["images"] + in_round,
                description=_line(status),
                visible=True,
            )

        result = run_demo(
            DemoPlan(config, out or Path("runs") / f"demo-{config.stem}", workers, images),
            say=lambda sentence: console.print(f"- {sentence}"),
            show=show,
        )
    plain = dataclasses.asdict(result)
    quality = plain.pop("quality")
    emit({**plain, **quality}, as_json)


def _line(status: Status) -> str:
    speed = sum(worker["images_per_second"] or 0.0 for worker in status["live"]["workers"])
    loss = status["held_out_loss"]
    parts = [f"version {status['version']}", f"{speed:.0f} images/s"]
    if loss is not None:
        parts.append(f"loss {loss:.4f}")
    return ", ".join(parts)
