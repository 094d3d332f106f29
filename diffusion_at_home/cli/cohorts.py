"""`dah cohorts`: one data set, several runs that never meet, and one checkpoint of all of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from diffusion_at_home.cli.output import emit
from diffusion_at_home.cli.progress import shown_progress

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Train several models on parts of one data set, and make one checkpoint of them.",
)

Cut = Annotated[Path, typer.Argument(metavar="CUT", help="Folder that `dah data cluster` has made.")]
Config = Annotated[Path, typer.Option("--config", help="The runs' config, for example configs/emoji.toml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")]


@app.command()
def init(
    cut: Cut,
    out: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the runs.")],
    config: Config,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Make a run for each cohort of CUT, in DIR/cohort-1 and so on: serve each with `dah coordinator run`.

    The config is that of one cohort. All runs begin with the same weights and have the same tokenizer; ports are two apart.
    """
    from diffusion_at_home.config.run import RunConfig
    from diffusion_at_home.config.toml import load_toml

    settings = load_toml(config, RunConfig, overrides or ())

    from coordinator.init import init_run
    from coordinator.run_folder import RunFolder
    from diffusion_at_home.cohorts.description import Cohorts
    from diffusion_at_home.cohorts.router import check_family
    from diffusion_at_home.cohorts.runs import cohort_config, write_tokenizer
    from diffusion_at_home.errors import ConfigError

    check_family(settings)
    cohorts = Cohorts.load(cut)
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: choose a new folder for the runs")
    tokenizer = write_tokenizer(cut, cohorts, settings, out)
    made = []
    for number, cohort in enumerate(cohorts.cohorts, start=1):
        own = cohort_config(settings, cut / cohort.name, number, tokenizer)
        made.append(dataclasses.asdict(init_run(RunFolder((out / cohort.name).absolute()), own)))
    emit({"folder": str(out), "runs": made}, as_json)


@app.command("train-router")
def train_router(
    cut: Cut,
    out: Annotated[Path, typer.Argument(metavar="ROUTER", help="New folder for the router.")],
    config: Config,
    overrides: Overrides = None,
    router: Annotated[
        list[str] | None,
        typer.Option("--router", metavar="KEY=VALUE", help="Change a setting of the router; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a small model that tells the cohorts of CUT from each other, at all times of the noise, with captions and without."""
    from diffusion_at_home.config.run import RunConfig
    from diffusion_at_home.config.toml import load_toml
    from diffusion_at_home.errors import ConfigError

    settings = load_toml(config, RunConfig, overrides or ())
    if out.exists():
        raise ConfigError(f"{out} exists: choose a new folder for the router")

    import torch

    from diffusion_at_home.cohorts import router_training
    from diffusion_at_home.cohorts.router import RouterSettings, save_router

    own = load_toml(None, RouterSettings, router or ())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with shown_progress("training the router") as tell:
        model, facts = router_training.train_router(
            cut,
            settings,
            own,
            device=device,
            on_images=lambda images, loss: tell(images, own.images, f"loss {loss:.3f}"),
        )
    save_router(model.cpu(), facts, out)
    emit(
        {
            "folder": str(out),
            "cohorts": len(facts.cohorts),
            "times": list(facts.times),
            "accuracy": list(facts.accuracy),
            "accuracy_without_caption": list(facts.accuracy_without_caption),
            "chance": facts.chance,
        },
        as_json,
    )


@app.command()
def export(
    checkpoints: Annotated[
        list[Path], typer.Argument(metavar="CHECKPOINT...", help="A downloaded checkpoint of each cohort's run.")
    ],
    router: Annotated[Path, typer.Option("--router", help="Folder that `dah cohorts train-router` has made.")],
    out: Annotated[Path, typer.Option("--out", help="New folder.")],
    top_k: Annotated[int, typer.Option(min=1, help="Experts a step, where whoever draws does not say.")] = 1,
    as_json: Json = False,
) -> None:
    """Make one checkpoint of those of all cohorts and their router. It is verified, signed and drawn with like any other."""
    from diffusion_at_home.cohorts.bundle import bundle

    made = bundle(checkpoints, router, out, top_k=top_k)
    emit(
        {
            "folder": str(out),
            "name": made.name,
            "run_id": made.run_id,
            "experts": len(made.cohorts),
            "images": made.images,
            "parameters": made.parameters,
            "bytes": made.size_bytes,
        },
        as_json,
    )
