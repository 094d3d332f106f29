"""Whether a line that a person may copy is a command of this software: parsed as `dah` would parse it, and never run."""

from __future__ import annotations

import itertools
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import typer
import yaml
from typer.exceptions import TyperException

from diffusion_at_home.cli import app

REPOSITORY = Path(__file__).resolve().parents[2]

COMPOSED = tuple(yaml.safe_load((REPOSITORY / "compose.yaml").read_text(encoding="utf-8"))["services"])
"""Services of compose.yaml, whose entry is `dah`."""

_PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*")
"""What the reader fills in; a 1 is a number, a word and a path."""


@cache
def _tree() -> Any:
    return typer.main.get_command(app)


def fault_of(words: list[str]) -> str | None:
    """What is wrong with the words that follow `dah`: a command, an option, or a missing argument; None if nothing is."""
    command, context, rest = _tree(), typer.Context(_tree(), info_name="dah"), list(words)
    while rest and hasattr(command, "get_command"):
        member = command.get_command(context, rest[0])
        if member is None:
            break
        command, context = member, typer.Context(member, info_name=rest.pop(0), parent=context)
    if hasattr(command, "get_command") and rest and not rest[0].startswith("-"):
        return f"there is no command {rest[0]}"
    filled = ["1" if _PLACEHOLDER.fullmatch(word) else word for word in rest]
    try:
        command.make_context(context.info_name, filled, parent=context.parent, resilient_parsing=False)
    except TyperException as error:
        return error.format_message()
    return None


def fenced(document: Path, language: str) -> list[str]:
    """The fenced blocks of `language` in a document."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def command_lines(block: str) -> list[list[str]]:
    """The words of each simple command of a block of shell: without comments, prompts, assignments and what a pipe adds."""
    commands: list[list[str]] = []
    for line in block.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s(?:&&|\|\||\||;)\s", line.partition(" #")[0] if "'" not in line else line):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                commands.append(words)
    return commands


def dah_arguments(words: list[str]) -> list[str] | None:
    """What follows `dah` in a command, also in a container of compose.yaml; None if it is another program's."""
    if words[0] == "sudo":
        words = words[1:]
    if Path(words[0]).name == "dah":
        return words[1:]
    if words[:2] == ["docker", "compose"] and words[2] in {"run", "exec"}:
        service, *rest = itertools.dropwhile(lambda word: word.startswith("-"), words[3:])
        assert service in COMPOSED, f"compose.yaml has no service {service}"
        return rest if words[2] == "run" else dah_arguments(rest)
    return None


def script_of(words: list[str]) -> Path | None:
    """The file of the repository that a command names, if it names one."""
    named = [word for word in words[:2] if re.match(r"(\./)?scripts/", word)]
    return REPOSITORY / named[0] if named else None
