"""`dah`: the one place that may reach both sides, and reaches each only when its command runs, so that --help is fast.

Every group is a module here with a `typer.Typer` named `app`; `_COMMANDS` names them with the line that --help shows.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from diffusion_at_home import __version__
from diffusion_at_home.cli.output import run_command

_COMMANDS: Final = {
    "demo": "Train a small model with real processes on this machine.",
    "data": "Build and look at data sets.",
    "coordinator": "Launch and watch a training run.",
    "worker": "Train for a run on this machine.",
    "cohorts": "Train several models on parts of one data set, and make one of them.",
    "checkpoint": "Download, verify and use what a run has made.",
    "mirror": "Pass a run's bytes on to its volunteers.",
}


class _LazyGroup(TyperGroup):
    """Loads a group's module when its command is named; every page of help looks like the first one, plain text."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 -- click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"diffusion_at_home.cli.{cmd_name}")
        module.app.rich_markup_mode = None
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        for member in getattr(command, "commands", {}).values():
            # Wrapped; left to itself, the list would cut it off. What follows its sentence is for the command's own page.
            member.short_help = member.help.partition("\n\n")[0] if member.help else None
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


app = typer.Typer(cls=_LazyGroup, rich_markup_mode=None, add_completion=False, invoke_without_command=True)


@app.callback()
def root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,  # noqa: ARG001
) -> None:
    """People with gaming cards train an image model from scratch together."""
    if version:
        typer.echo(__version__)
    elif ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def main() -> None:
    """The console entry point."""
    # Threads that wait for each other by spinning make a machine that does anything else ten times slower
    # (docs/benchmarks.md); read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it notes at import what nothing here uses
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # else gRPC writes lines of its own beside our one sentence
    command = typer.main.get_command(app)
    code = run_command(lambda: command.main(prog_name="dah", standalone_mode=False), debug="--debug" in sys.argv[1:2])
    sys.exit(code)
