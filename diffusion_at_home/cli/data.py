"""`dah data`: build and look at data sets."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffusion_at_home.cli.output import emit
from diffusion_at_home.cli.progress import shown_progress

if TYPE_CHECKING:
    from diffusion_at_home.data.build import Progress

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Build and look at data sets.")

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")]


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
    with shown_progress("reading") as tell:

        def show(progress: Progress) -> None:
            tell(progress.units, progress.num_units, f"{progress.kept:,} pictures, {progress.refused:,} refused")

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


@app.command()
def cluster(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of a data set of pictures.")],
    out: Annotated[Path, typer.Argument(metavar="CUT", help="New folder for the cohorts' data sets.")],
    cohorts: Annotated[int, typer.Option(min=2, max=8, help="How many.")] = 4,
    encoder: Annotated[
        Path | None,
        typer.Option(
            help="Folder of an encoder of pictures, such as one that `dah checkpoint evaluate` has trained; captions are "
            "compared if it is left out."
        ),
    ] = None,
    most_ratio: Annotated[float, typer.Option(min=1.0, help="The largest may be so many times the smallest.")] = 1.25,
    seed: Annotated[int, typer.Option(min=0, help="The same one makes the same cohorts.")] = 0,
    as_json: Json = False,
) -> None:
    """Cut DATA into cohorts of like pictures and nearly one size: a data set for each, for `dah cohorts`."""
    from diffusion_at_home.cohorts.cut import CutPlan, cut

    with shown_progress("clustering") as tell:
        made = cut(
            CutPlan(data, out, cohorts, encoder=encoder, seed=seed, most_ratio=most_ratio),
            lambda what, done, total: tell(done, total, what),
        )
    emit(
        {
            "folder": str(out),
            "by": made.by,
            "size_ratio": made.size_ratio,
            "cohorts": [one.model_dump(mode="json") for one in made.cohorts] if as_json else len(made.cohorts),
        }
        | ({} if as_json else {one.name: f"{one.train_images:,}: {', '.join(one.examples)}" for one in made.cohorts}),
        as_json,
    )


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
    with shown_progress("training the autoencoder") as tell:
        made = train(
            pictures,
            out,
            settings,
            device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
            on_images=lambda images, loss: tell(images, settings.images, f"loss {loss:.4f}"),
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
    done, total = 0, sum(entry.num_samples for entry in (*source.train, *source.held_out))
    with shown_progress("encoding") as tell:

        def hear(samples: int) -> None:
            nonlocal done
            done += samples
            tell(done, total, "")

        made = encode_data(pictures, out, encoder_of(opened), on_samples=hear)
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
