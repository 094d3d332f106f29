"""A doctor's lines, for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffusion_at_home.cli.output import one_line
from diffusion_at_home.doctor import Diagnosis


def draw(found: Diagnosis, fit: str, unfit: str) -> None:
    """Print the lines of `found`, and one of the two sentences."""
    shown = Table.grid(padding=(0, 2, 0, 0))
    for check in found.checks:
        style = {"fine": "green", "warning": "yellow", "problem": "bold red", "skipped": "dim"}[check.state]
        told = Text(one_line(check.found), overflow="fold")
        if check.advice:
            told.append(f"\n{one_line(check.advice)}", "bold")
        shown.add_row(Text(check.name.replace("_", " "), no_wrap=True), Text(check.state, style, no_wrap=True), told)
    console = Console()
    console.print(shown)
    console.print(fit if found.fit else unfit)
