"""What the commands of `dah worker` have in common: which settings and which state folder they mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from worker.settings import WorkerSettings

Config = Annotated[Path | None, typer.Option("--config", help="File of settings instead of the default one.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; may be repeated.")
]
StateDir = Annotated[
    Path | None, typer.Option("--state-dir", help="Folder for everything this worker keeps, its downloads included.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")]


def worker_settings(config: Path | None, overrides: list[str] | None, state_dir: Path | None) -> WorkerSettings:
    """What the file says, then the options. Raises `ConfigError`."""
    from worker.settings import load_settings

    folders = []
    if state_dir is not None:
        folders = [f"state_dir={state_dir.absolute()}", f"cache_dir={state_dir.absolute() / 'cache'}"]
    return load_settings(config, [*folders, *(overrides or ())])
