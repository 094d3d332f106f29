"""Two versions that do not fit: the sentence names the older side and the command that makes it newer."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.upgrade import ELSEWHERE, told_by_coordinator, told_to_worker, upgrade_command, upgrade_here

NEWER, OLDER = PROTOCOL_VERSION + 1, PROTOCOL_VERSION - 1


@pytest.mark.parametrize(
    ("prefix", "command"),
    [
        ("/home/ada/.local/share/pipx/venvs/diffusion-at-home", "pipx upgrade diffusion-at-home"),
        ("/home/ada/.local/share/uv/tools/diffusion-at-home", "uv tool upgrade diffusion-at-home"),
        ("/srv/dah", "/srv/dah/bin/python -m pip install --upgrade diffusion-at-home"),
    ],
)
def test_the_command_is_that_of_the_installation(prefix: str, command: str) -> None:
    package = Path(prefix) / "lib/python3.11/site-packages/diffusion_at_home"
    assert upgrade_command(Path(prefix), package) == command


def test_a_checkout_is_pulled(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    found = upgrade_command(Path("/srv/dah"), tmp_path / "diffusion_at_home")
    assert found == f"git -C {tmp_path} pull && {tmp_path}/scripts/setup.sh"


def test_a_worker_that_is_older_is_told_its_own_command() -> None:
    assert told_to_worker(NEWER) == f"upgrade this software with `{upgrade_here()}`"
    assert told_by_coordinator(OLDER) == f"upgrade the worker with `{ELSEWHERE}`"


def test_of_a_coordinator_that_is_older_the_operator_is_named() -> None:
    assert told_to_worker(OLDER).startswith("upgrade the coordinator: its operator runs `pipx upgrade")
    assert told_by_coordinator(NEWER) == told_to_worker(OLDER)


def test_a_coordinator_does_not_tell_where_it_is_installed() -> None:
    assert not any(str(Path(__file__).parents[2]) in told_by_coordinator(version) for version in (OLDER, NEWER))
