"""Every page of help renders, and tells of every argument and option."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from diffusion_at_home import __version__
from diffusion_at_home.cli import app
from tests.integration.command_line import dah


def pages(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of the tree, with the words that lead to it."""
    yield path, command
    if hasattr(command, "list_commands"):
        context = typer.Context(command)
        for name in command.list_commands(context):
            yield from pages(command.get_command(context, name), (*path, name))


PAGES = dict(pages(typer.main.get_command(app)))


def test_the_tree_has_the_commands_of_the_design() -> None:
    wanted = {
        ("demo",),
        ("data", "build"),
        ("data", "inspect"),
        ("coordinator", "init"),
        ("coordinator", "run"),
        ("coordinator", "status"),
        ("coordinator", "backup"),
        ("coordinator", "restore"),
        ("worker", "join"),
        ("worker", "run"),
        ("worker", "status"),
        ("worker", "doctor"),
        ("worker", "bench"),
        ("checkpoint", "list"),
        ("checkpoint", "download"),
        ("checkpoint", "verify"),
        ("checkpoint", "sample"),
        ("checkpoint", "evaluate"),
    }
    assert wanted <= set(PAGES)


@pytest.mark.parametrize("path", PAGES, ids=[" ".join(path) or "dah" for path in PAGES])
def test_a_page_tells_of_everything_that_may_be_said(path: tuple[str, ...]) -> None:
    answer = dah(*path, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"Usage: {' '.join(('dah', *path))} ")
    text = " ".join(answer.out.split())
    command = PAGES[path]
    assert command.help
    for parameter in command.params:
        assert parameter.help, f"{parameter.name} has no help"
        assert " ".join(parameter.help.split()) in text
        assert all(option in text for option in parameter.opts if option.startswith("--"))


@pytest.mark.parametrize("path", [path for path in PAGES if hasattr(PAGES[path], "list_commands")], ids=" ".join)
def test_a_group_lists_its_commands_each_with_a_whole_sentence(path: tuple[str, ...]) -> None:
    listed = dah(*path, "--help").out.partition("\nCommands:\n")[2]
    for name in PAGES[path].list_commands(typer.Context(PAGES[path])):
        assert f"\n  {name} " in f"\n{listed}"
    assert "..." not in listed


def test_without_a_command_there_is_help() -> None:
    assert dah().out == dah("--help").out
    group = dah("data")
    assert (group.code, group.out) == (2, "")
    assert group.err.strip() == dah("data", "--help").out.strip()


def test_the_version_is_a_version_alone() -> None:
    answer = dah("--version")
    assert (answer.code, answer.out, answer.err) == (0, f"{__version__}\n", "")
