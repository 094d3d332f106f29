"""`dah data`: build and look at data sets."""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from diffusion_at_home.cli.output import emit

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from diffusion_at_home.data.build import Progress

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Build and look at data sets.")

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")]

_RATE_SECONDS: Final = 30.0
_CALM_SECONDS: Final = 10.0
"""Between two lines where nobody watches a bar."""


@app.command()
def build(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="digits, emoji, or a path: a folder of pictures with captions, .tar files (WebDataset) or .parquet files. "
            "folder:PATH, webdataset:PATH and parquet:PATH say which.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the data set.")],
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the data set SOURCE in OUT: pictures sorted by size into shards. One that was broken off goes on.

    One that is there already is checked and left alone. OUT/report.html shows what is in it, and what was refused and why.
    """
    from diffusion_at_home.data import build as builder
    from diffusion_at_home.data.report import Report

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the processes that read end with it
    begun = time.monotonic()
    with _shown_progress() as show:
        manifest = builder.build(source, out, config=config, overrides=overrides or (), show=show)
    report, buckets = Report.load(out), Counter[str]()
    for entry in (*manifest.train, *manifest.held_out):
        buckets[f"{entry.width}x{entry.height}"] += entry.num_samples
    emit(
        {
            "folder": str(out),
            "digest": manifest.digest,
            "train_images": manifest.num_train_images,
            "held_out_images": sum(entry.num_samples for entry in manifest.held_out),
            "shards": len(manifest.train) + len(manifest.held_out),
            "buckets": dict(buckets.most_common()),
            "refused": {} if report is None else {reason.value: of.count for reason, of in report.refused.items()},
            "license": manifest.license,
            "seconds": round(time.monotonic() - begun, 3),
        },
        as_json,
    )


@contextmanager
def _shown_progress() -> Iterator[Callable[[Progress], None]]:
    """What is told of the progress: a bar on a terminal, a line now and then elsewhere; both on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console, said = Console(stderr=True), _Said()
    if not console.is_terminal:
        yield lambda progress: said.calmly(progress, lambda line: console.print(f"- {line}", highlight=False))
        return
    columns = (BarColumn(bar_width=20), TextColumn("{task.description}"), TimeElapsedColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console) as bars:
        task = bars.add_task("reading", total=None)
        yield lambda progress: bars.update(
            task, total=progress.num_units, completed=progress.units, description=said.words(progress)
        )


class _Said:
    """Progress in words; the rate is that of the last half minute, as a build that goes on begins with what is there."""

    def __init__(self) -> None:
        self._marks = deque[tuple[float, int]]([(time.monotonic(), 0)])
        self._last_line = time.monotonic()

    def words(self, progress: Progress) -> str:
        """Pictures, those refused, and the rate."""
        now, pictures = time.monotonic(), progress.kept + progress.refused
        self._marks.append((now, pictures))
        while len(self._marks) > 2 and now - self._marks[0][0] > _RATE_SECONDS:
            self._marks.popleft()
        then, before = self._marks[0]
        rate = (pictures - before) / max(now - then, 1e-9)
        return f"{progress.kept:,} pictures, {progress.refused:,} refused, {rate:,.0f}/s"

    def calmly(self, progress: Progress, say: Callable[[str], None]) -> None:
        """Say it, unless it was said just before."""
        words = self.words(progress)
        if time.monotonic() - self._last_line >= _CALM_SECONDS:
            self._last_line = time.monotonic()
            say(f"{progress.units / progress.num_units:.0%}: {words}")


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the data set.")],
    sheet: Annotated[Path | None, typer.Option(help="Draw a contact sheet into this PNG.")] = None,
    as_json: Json = False,
) -> None:
    """Verify the data set in OUT and show what is in it."""
    from diffusion_at_home.data.inspect import contact_sheet, summarize

    found = dataclasses.asdict(summarize(folder))
    if sheet is not None:
        contact_sheet(folder, sheet)
        found["sheet"] = str(sheet)
    emit(found, as_json)


@app.command("train-autoencoder")
def train_autoencoder(
    pictures: Annotated[Path, typer.Argument(metavar="PICTURES", help="Folder of a data set of pictures.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the autoencoder.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be given several times."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a small AutoencoderKL from nothing on PICTURES, for latents without anybody's weights. One broken off goes on."""
    import torch

    from diffusion_at_home.config.toml import load_toml
    from diffusion_at_home.model.autoencoder_training import AutoencoderTraining
    from diffusion_at_home.model.autoencoder_training import train_autoencoder as train

    settings = load_toml(None, AutoencoderTraining, overrides or ())
    with _bar() as progress:
        task = progress.add_task("training the autoencoder", total=settings.images)
        made = train(
            pictures,
            out,
            settings,
            device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
            on_images=lambda images, loss: progress.update(task, completed=images, description=f"loss {loss:.4f}"),
        )
    emit(dataclasses.asdict(made), as_json)


@app.command()
def encode(
    pictures: Annotated[Path, typer.Argument(metavar="PICTURES", help="Folder of a data set of pictures.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the data set of latents.")],
    autoencoder: Annotated[str, typer.Option(help="Folder or hub id of a diffusers AutoencoderKL or AutoencoderDC.")],
    as_json: Json = False,
) -> None:
    """Make a data set of latents in OUT of the one of PICTURES. One that was broken off is gone on with."""
    import torch

    from diffusion_at_home.data.encode import encode as encode_data
    from diffusion_at_home.data.manifest import DataManifest
    from diffusion_at_home.model.autoencoder import encoder_of, open_autoencoder

    source = DataManifest.load(pictures)
    opened = open_autoencoder(autoencoder, named_by="--autoencoder")
    opened.to("cuda" if torch.cuda.is_available() else "cpu")
    with _bar() as progress:
        total = sum(entry.num_samples for entry in (*source.train, *source.held_out))
        task = progress.add_task("encoding", total=total)
        made = encode_data(
            pictures, out, encoder_of(opened), on_samples=lambda samples: progress.advance(task, samples)
        )
    entries = (*made.train, *made.held_out)
    emit(
        {
            "folder": str(out),
            "digest": made.digest,
            "train_images": made.num_train_images,
            "held_out_images": sum(entry.num_samples for entry in made.held_out),
            "shards": len(entries),
            "bytes_per_image": sum(entry.size_bytes for entry in entries) / total,
            "channels": opened.config.latent_channels,
        },
        as_json,
    )


def _bar() -> Bars:
    """A bar on standard error that says how long it will take yet."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not sys.stderr.isatty())
