"""`dah data`: build and look at data sets."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from diffusion_at_home.cli.output import emit

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
