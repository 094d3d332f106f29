"""Every command in the documents is one that `dah` takes, and every script that they name is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.documented_command import REPOSITORY, command_lines, dah_arguments, fault_of, fenced, script_of

DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])
COMMANDS = [
    pytest.param(words, id=f"{document.relative_to(REPOSITORY)}:{' '.join(words)[:80]}")
    for document in DOCUMENTS
    for block in fenced(document, "bash")
    for words in command_lines(block)
]


@pytest.mark.parametrize("words", COMMANDS)
def test_it_can_be_given_as_it_is_written(words: list[str]) -> None:
    arguments, script = dah_arguments(words), script_of(words)
    if arguments is not None:
        assert fault_of(arguments) is None
    if script is not None:
        assert script.is_file()


def test_there_are_commands_of_every_group() -> None:
    given = {arguments[0] for (words,) in (c.values for c in COMMANDS) if (arguments := dah_arguments(words))}
    assert {"data", "coordinator", "worker", "checkpoint"} <= given
    assert len(COMMANDS) > 30


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("worker run --state-dir DIR", None),
        ("coordinator rollback runs/digits VERSION", None),
        ("worker sprint", "sprint"),
        ("worker run --fast", "--fast"),
        ("checkpoint verify", "DIR"),
        ("checkpoint download ADDRESS --witch best", "--witch"),
        ("coordinator run runs/digits --http-port many", "valid integer"),
    ],
)
def test_what_is_wrong_is_found(line: str, fault: str | None) -> None:
    found = fault_of(line.split())
    assert (found is None) if fault is None else (found is not None and fault in found)


def test_comments_pipes_and_assignments_are_not_arguments() -> None:
    block = "HF_TOKEN=x dah checkpoint list ADDRESS | head  # all\n# nothing\ncd there && dah --version\n"
    assert command_lines(block) == [
        ["dah", "checkpoint", "list", "ADDRESS"],
        ["head"],
        ["cd", "there"],
        ["dah", "--version"],
    ]
    assert dah_arguments(["docker", "compose", "run", "--rm", "worker", "worker", "join", "A"]) == [
        "worker",
        "join",
        "A",
    ]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here to read the unit")
def test_systemd_understands_the_coordinators_unit(tmp_path: Path) -> None:
    (unit,) = [block for block in fenced(REPOSITORY / "docs/operators.md", "ini") if "[Service]" in block]
    (command,) = re.findall(r"^ExecStart=/opt/dah/bin/dah (.*)$", unit, re.MULTILINE)
    assert fault_of(command.split()) is None
    file = tmp_path / "diffusion-at-home-coordinator.service"
    file.write_text(unit.replace("/opt/dah/bin/dah", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True, check=False)
    assert [
        line for line in done.stderr.splitlines() if file.name in line
    ] == []  # it reads other units of this machine, too


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_scripts_are_there(tmp_path: Path) -> None:
    assert script_of(["./scripts/demo.sh", "emoji"]) == REPOSITORY / "scripts/demo.sh"
    assert script_of(["ls", str(tmp_path)]) is None
