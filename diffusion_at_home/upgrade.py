"""Which side is the older one, and the command that makes it newer: for sentences in which two versions do not fit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from diffusion_at_home import PROTOCOL_VERSION

ELSEWHERE: Final = "pipx upgrade diffusion-at-home"
"""On a machine of which nothing is known."""


def upgrade_command(prefix: Path, package: Path) -> str:
    """What upgrades this installation.

    Args:
        prefix: `sys.prefix`, the environment that the software runs in.
        package: folder of the imported package `diffusion_at_home`.
    """
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file():
        return f"git -C {checkout} pull && {checkout}/scripts/setup.sh"
    if prefix.parent.name == "venvs" and prefix.parent.parent.name == "pipx":
        return ELSEWHERE
    if prefix.parent.name == "tools" and prefix.parent.parent.name == "uv":
        return "uv tool upgrade diffusion-at-home"
    return f"{prefix}/bin/python -m pip install --upgrade diffusion-at-home"


def upgrade_here() -> str:
    """What upgrades the software that runs now."""
    return upgrade_command(Path(sys.prefix), Path(__file__).parent)


def told_to_worker(theirs: int) -> str:
    """For a worker whose coordinator speaks protocol `theirs`: whom to upgrade, and how."""
    if theirs > PROTOCOL_VERSION:
        return f"upgrade this software with `{upgrade_here()}`"
    return f"upgrade the coordinator: its operator runs `{ELSEWHERE}` there and starts it again"


def told_by_coordinator(theirs: int) -> str:
    """For whoever calls a coordinator with protocol `theirs`: whom to upgrade, and how. It tells nothing of this machine."""
    if theirs < PROTOCOL_VERSION:
        return f"upgrade the worker with `{ELSEWHERE}`"
    return f"upgrade the coordinator: its operator runs `{ELSEWHERE}` there and starts it again"
