#!/usr/bin/env python3
"""Write docs/api.md anew from the records that the pages' JSON is made of; with --check only say whether it is up to date."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))

from coordinator.web.views.contributors import ContributorsView  # noqa: E402 -- the path comes first
from coordinator.web.views.curve import Curve  # noqa: E402
from coordinator.web.views.downloads import CheckpointView, DownloadsView  # noqa: E402
from coordinator.web.views.join import JoinView  # noqa: E402
from coordinator.web.views.live import LiveView  # noqa: E402
from coordinator.web.views.log import LogView  # noqa: E402
from coordinator.web.views.machines import MachinesView  # noqa: E402
from coordinator.web.views.run import RunView  # noqa: E402
from coordinator.web.views.status import StatusView  # noqa: E402
from coordinator.web.views.team import TeamView  # noqa: E402
from coordinator.web.views.volunteer import VolunteerView  # noqa: E402
from coordinator.web.views.worker import WorkerView  # noqa: E402

DOCUMENT: Final = REPOSITORY / "docs" / "api.md"

_ENDPOINTS: Final = (
    ("/run", RunView, "the front page"),
    ("/curve", Curve, "the curve of held-out loss, in at most 500 points"),
    ("/machines", MachinesView, "who works now; `page` counts from 1"),
    (
        "/contributors",
        ContributorsView,
        "`period` is `day`, `month` or `all`, `find` part of a name or a worker's id, `page`",
    ),
    ("/workers/{id}", WorkerView, "one worker"),
    ("/volunteers/{name}", VolunteerView, "all workers that give a name, percent-encoded"),
    ("/teams/{name}", TeamView, "all workers that say they are of a team, percent-encoded"),
    ("/downloads", DownloadsView, "checkpoints; `page`"),
    ("/downloads/{name}", CheckpointView, "one checkpoint, with its files"),
    ("/status", StatusView, "how the coordinator is"),
    ("/log", LogView, "what the operator did; `page`"),
    ("/join", JoinView, "what a volunteer needs to know"),
    ("/events", LiveView, "server-sent events named `live`, each one of these; not an answer but a stream"),
)

_HEAD: Final = """\
# The pages' JSON

Each page of a run's address is also JSON, below `/api/v1`, with the same content: the page is made from it. It needs no login,
changes nothing, and is kept for some seconds. Fields are added as the software grows, and none changes its meaning below
`/api/v1`. What is not known is `null`, and so is a number that is infinite or none. Times are milliseconds since 1970 by the
coordinator's clock where a name ends in `_ms`; sizes are bytes. What there is not is answered with 404 and `{"error": ...}`.
Nothing here holds a volunteer's address, a token or a key. Names and notes were chosen by people: escape them.

A table comes by the page of 100 rows; `paging` says which one it is. `/status.json`, `/checkpoints.json`, `/judgements.json` and
the pages of leases are for programs of the run's own, `/metrics` for Prometheus, `/healthz` for whoever only wants to know that
somebody answers.

*Made by `scripts/gen_api_docs.py` from the records in `coordinator/web/views/`.*
"""


def text() -> str:
    """The document."""
    seen: set[type] = set()
    parts = [_HEAD, "| address | is | |", "|---|---|---|"]
    parts += [
        f"| `/api/v1{path}` | [{view.__name__}](#{view.__name__.lower()}) | {why} |" for path, view, why in _ENDPOINTS
    ]
    waiting: list[type] = [view for _, view, _ in _ENDPOINTS]
    while waiting:
        record = waiting.pop(0)
        if record not in seen:
            seen.add(record)
            parts += ["", *_section(record)]
            waiting += _mentioned(record)
    return "\n".join(parts) + "\n"


def _section(record: type) -> Iterator[str]:
    yield f"## {record.__name__}"
    yield _line(inspect.getdoc(record) or "")
    if issubclass(record, StrEnum):
        values = _told(record)
        yield ""
        yield from (f"- `{one.value}`{': ' + values[one.name] if one.name in values else ''}" for one in record)
        return
    told, hints = _told(record), typing.get_type_hints(record, localns=_names(record))
    yield ""
    yield "| field | type | |"
    yield "|---|---|---|"
    for field in dataclasses.fields(record):
        yield f"| `{field.name}` | {_type(hints[field.name])} | {_line(told.get(field.name, ''))} |"


def _told(record: type) -> dict[str, str]:
    """The string behind each field, by its name."""
    (definition,) = ast.parse(inspect.getsource(record)).body
    assert isinstance(definition, ast.ClassDef)
    told, name = {}, None
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            told[name], name = str(node.value.value), None
    return {one: _line(words) for one, words in told.items()}


def _names(record: type) -> dict[str, Any]:
    return vars(sys.modules[record.__module__])


def _type(hint: Any) -> str:
    if dataclasses.is_dataclass(hint) or (isinstance(hint, type) and issubclass(hint, StrEnum)):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"{_type(arguments[1])} by {_type(arguments[0])}"
    if isinstance(hint, types.UnionType):
        return " or ".join("`null`" if one is type(None) else _type(one) for one in arguments)
    plain = {str: "text", int: "integer", float: "number", bool: "true or false"}
    return plain[getattr(hint, "__supertype__", hint)]


def _mentioned(record: type) -> list[type]:
    if issubclass(record, StrEnum):
        return []
    found: list[type] = []
    hints = list(typing.get_type_hints(record, localns=_names(record)).values())
    while hints:
        hint = hints.pop(0)
        hints = [*typing.get_args(hint), *hints]
        if dataclasses.is_dataclass(hint) or (isinstance(hint, type) and issubclass(hint, StrEnum)):
            found.append(typing.cast("type", hint))
    return found


def _line(words: str) -> str:
    return " ".join(words.split()).replace("|", "\\|")


def main() -> int:
    """Run the command line."""
    made = text()
    if sys.argv[1:] == ["--check"]:
        return 0 if DOCUMENT.read_text(encoding="utf-8") == made else 1
    DOCUMENT.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
