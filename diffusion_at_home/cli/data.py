"""`dah data`: build and look at data sets."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffusion_at_home.cli.output import emit

if TYPE_CHECKING:
    from rich.progress import Progress

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Build and look at data sets.")

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")]


@app.command()
def build(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What to build: digits.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the data set.")],
    as_json: Json = False,
) -> None:
    """Make the data set SOURCE in OUT. One that is there already is checked and left alone."""
    from diffusion_at_home.data import build as builder

    manifest = builder.build(source, out)
    emit(
        {
            "folder": str(out),
            "digest": manifest.digest,
            "train_images": manifest.num_train_images,
            "held_out_images": sum(entry.num_samples for entry in manifest.held_out),
            "shards": len(manifest.train) + len(manifest.held_out),
            "license": manifest.license,
        },
        as_json,
    )


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
    """Train a small AutoencoderKL from nothing on PICTURES, for latents without anybody's weights."""
    import torch

    from diffusion_at_home.config.toml import load_toml
    from diffusion_at_home.model.autoencoder_training import AutoencoderTraining
    from diffusion_at_home.model.autoencoder_training import train_autoencoder as train

    settings = load_toml(None, AutoencoderTraining, overrides or ())
    with _progress() as progress:
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
    with _progress() as progress:
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


def _progress() -> Progress:
    """A bar on standard error that says how long it will take yet."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not sys.stderr.isatty())
