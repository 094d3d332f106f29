"""The Dockerfile and compose.yaml name files and commands that exist. They are not built here: that takes a Docker daemon."""

from __future__ import annotations

import fnmatch
import re
import shlex
from typing import Any

import pytest
import yaml

from tests.unit.documented_command import REPOSITORY, fault_of

DOCKERFILE = re.sub(r"\\\n", " ", (REPOSITORY / "Dockerfile").read_text())
INSTRUCTIONS = [line.split(maxsplit=1) for line in DOCKERFILE.splitlines() if line and line[0] not in "# "]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())["services"]


def copied() -> list[str]:
    lines = [shlex.split(rest) for name, rest in INSTRUCTIONS if name == "COPY"]
    return [source for words in lines if not words[0].startswith("--from") for source in words[:-1]]


def test_what_is_copied_is_there_and_reaches_the_builder() -> None:
    allowed = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert len(copied()) > 5
    for source in copied():
        assert (REPOSITORY / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in allowed), source


def test_every_package_and_the_configs_are_copied() -> None:
    packages = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")} - {"tests"}
    assert packages | {"configs", "pyproject.toml", "constraints.txt"} <= set(copied())


def test_nothing_runs_as_root() -> None:
    last_stage = INSTRUCTIONS[max(i for i, (name, _) in enumerate(INSTRUCTIONS) if name == "FROM") :]
    assert ["USER", "dah"] in last_stage
    assert dict(last_stage)["ENTRYPOINT"] == '["dah"]'


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_restricted_and_its_command_is_one_of_dah(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert fault_of(service["command"]) is None
    assert service["volumes"] == [f"{name}:/data"]


def test_the_health_checks_ask_for_what_there_is() -> None:
    words = shlex.split(SERVICES["worker"]["healthcheck"]["test"][1].partition("|")[0])
    assert fault_of(words[1:]) is None
    compile(SERVICES["coordinator"]["healthcheck"]["test"][3], "healthcheck", "exec")


def test_the_commands_in_their_heads_are_good() -> None:
    given = re.findall(
        r"docker compose run --rm worker (.*?)(?: &&|$)", (REPOSITORY / "compose.yaml").read_text(), re.MULTILINE
    )
    assert given
    assert [fault_of(line.split()) for line in given] == [None] * len(given)
