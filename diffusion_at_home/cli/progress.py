"""Shows on standard error how far a command has come: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from diffusion_at_home.cli.calm import Calm

Tell = Callable[[int, int, str], None]
"""Told how much is done, of how much, and what else there is to say."""


@contextmanager
def shown_progress(what: str) -> Iterator[Tell]:
    """Within, what is told is shown; `what` stands there until then."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        calm = Calm(time.monotonic())

        def say(done: int, total: int, words: str) -> None:
            if line := calm.line(done, total, words, time.monotonic()):
                console.print(f"- {what}: {line}", highlight=False, soft_wrap=True)

        yield say
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(what, total=None)

        def update(done: int, total: int, words: str) -> None:
            bars.update(task, total=total, completed=done, description=f"{what}: {words}" if words else what)

        yield update
