"""The status as one line that stays in place on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.live import Live
from rich.text import Text

from worker.progress import Status, WorkerState


@contextmanager
def live_line(console: Console, status: Callable[[], Status]) -> Iterator[None]:
    """Within, draw the latest `status` a few times a second; without a terminal, nothing."""
    if not console.is_terminal:
        yield
        return
    with Live(console=console, get_renderable=lambda: render(status()), refresh_per_second=4, transient=True):
        yield


def render(status: Status) -> Text:
    """The line: `training: version 12  1536/4000 images  210 images/s  loss 0.0312  up 1.2 MB  down 3.4 MB  ...`.

    Paused, it says why, and no speed that it does not have.
    """
    if status.state is WorkerState.PAUSED:
        return _line([f"{status.state.value}: {status.reason}", _handed_in(status)])
    parts = [f"{status.state.value}: {status.reason}" if status.reason else status.state.value]
    if status.state is WorkerState.TRAINING:
        parts.append(f"{status.lease_images}/{status.lease_quota_images} images")
    if status.images_per_second:
        parts.append(f"{status.images_per_second:.3g} images/s")
    if status.loss is not None:
        parts.append(f"loss {status.loss:.4f}")
    parts.append(f"up {decimal(status.bytes_up)}")
    parts.append(f"down {decimal(status.bytes_down)}")
    return _line([*parts, _handed_in(status)])


def _handed_in(status: Status) -> str:
    return f"{status.images_total} images handed in"


def _line(parts: list[str]) -> Text:
    return Text("  ".join(parts), no_wrap=True, overflow="ellipsis")
