"""`dah worker service`: the worker as a service of this user's systemd."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffusion_at_home.cli.output import emit
from diffusion_at_home.cli.worker_options import Config, Json, StateDir, worker_settings

if TYPE_CHECKING:
    from worker.service.user_manager import UserManager

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Run the worker as a service of your own (systemd).")


@app.command()
def install(
    config: Config = None,
    state_dir: StateDir = None,
    print_only: Annotated[bool, typer.Option("--print", help="Print the unit, and do nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Write a hardened unit that runs this worker, and start it.

    It runs `dah worker run` of this installation. Join a run first. Installed again, the unit is written anew. It starts with
    your session; `loginctl enable-linger` lets it run without one.
    """
    from diffusion_at_home.errors import storage_errors
    from worker.service.unit import Sandbox, command_line, installation, settings_place, unit_text
    from worker.settings import default_settings_file

    settings = worker_settings(config, None, state_dir)
    settings_at = settings_place((config or default_settings_file()).absolute(), Path.home())
    readable = (*installation(Path.home()), settings_at)
    sandbox = Sandbox(settings.state_dir.absolute(), settings.cache_dir.absolute(), readable)
    command = command_line(config, state_dir)
    if print_only:
        typer.echo(unit_text(command, sandbox, isolate=True), nl=False)
        return
    _check_joined(settings.state_dir)
    manager = _manager()
    answers = manager.is_there()
    isolated = manager.can_isolate() if answers else True
    for folder in (sandbox.cache, settings_at.parent if settings_at.is_file() else settings_at):
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)  # a unit binds only what is there when it starts
    manager.write(unit_text(command, sandbox, isolate=isolated))
    if answers:
        manager.start()
    emit(
        {
            "unit": str(manager.file),
            "started": answers,
            "sees_your_files": not isolated,
            "next": _KEEPS_RUNNING if answers else _START_IT,
        },
        as_json,
    )


@app.command()
def uninstall(as_json: Json = False) -> None:
    """Let the service hand in and stop, and remove its unit. What the worker keeps stays."""
    manager = _manager()
    emit({"unit": str(manager.file), "removed": manager.remove()}, as_json)


@app.command()
def show(as_json: Json = False) -> None:
    """Where the unit is, and what systemd says of it. `dah worker status` says what the worker does."""
    manager = _manager()
    state: dict[str, Any] = manager.state()
    emit({"unit": str(manager.file), "installed": manager.file.exists(), "systemd": state}, as_json)


_KEEPS_RUNNING = "it runs while you are logged in; `loginctl enable-linger` lets it run always"
_START_IT = (
    "your systemd does not answer here; where it does: "
    "`systemctl --user daemon-reload` and `systemctl --user enable --now diffusion-at-home-worker`"
)


def _manager() -> UserManager:
    import os

    from worker.service.user_manager import UserManager

    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return UserManager(Path(home) / "systemd" / "user")


def _check_joined(state_dir: Path) -> None:
    """Without a run the service would end as soon as it is started."""
    from diffusion_at_home.errors import ConfigError
    from worker.state_folder import StateFolder

    if not StateFolder(state_dir).joined_runs():
        raise ConfigError("no run has been joined yet: `dah worker join ADDRESS` first, then install the service")
