"""Pages from templates. Whatever comes from outside is escaped by the template engine, everywhere, and nothing is exempt.

Templates lie in `templates/`, and in folders of that name beside what has pages of its own: all are named by their path below
`coordinator/web`, as in `{% extends "templates/base.html" %}`. They hold no style and no script, which no browser would run
(`guard.py`).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import jinja2
from starlette.responses import HTMLResponse

from coordinator.web import words
from coordinator.web.static_files import static_files

_FOLDER: Final = Path(__file__).parent
_FRESH: Final = {"Cache-Control": "no-cache"}


class Renderer:
    """The templates, with what every page of the run says."""

    def __init__(self, *, run: str, title: str, version: str) -> None:
        """`run` and `title` are the run's, `version` the software's."""
        self._of_the_run = {"run_name": run, "run_title": title or run, "software_version": version}

    def text(self, template: str, **values: Any) -> str:
        """The page as text."""
        return _environment().get_template(template).render(self._of_the_run | values)

    def page(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """The page as an answer that no cache keeps."""
        return HTMLResponse(self.text(template, **values), status_code=status, headers=_FRESH)


@cache
def _environment() -> jinja2.Environment:
    """One a process: templates are compiled when they are first needed."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals.update(static=static_files().url, worker_path=worker_path)
    environment.globals.update(volunteer_path=volunteer_path, team_path=team_path)
    filters = (words.number, words.figure, words.percent, words.size, words.duration, words.moment, words.day)
    environment.filters.update({one.__name__: one for one in filters})
    environment.filters.update(counted=words.counted, machine_time=words.machine_time)
    return environment


def worker_path(worker_id: str) -> str:
    """Of a worker's page."""
    return f"/workers/{quote(worker_id, safe='')}"


def volunteer_path(name: str) -> str:
    """Of a volunteer's page."""
    return _named_path("/volunteers/", name)


def team_path(name: str) -> str:
    """Of a team's page."""
    return _named_path("/teams/", name)


def _named_path(folder: str, name: str) -> str:
    """A browser would take a name of dots for a way up."""
    return f"{folder}?called={name}" if name in {".", ".."} else f"{folder}{quote(name, safe='')}"
