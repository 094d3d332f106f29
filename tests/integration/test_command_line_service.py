"""`dah worker service`, as a volunteer gives it whose systemd does not answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_at_home.errors import ConfigError
from tests.integration.command_line import dah
from worker.service.user_manager import UNIT
from worker.state_folder import StateFolder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and no systemd."""
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_a_service_is_written_shown_and_taken_away(home: Path) -> None:
    state = home / ".local/state/diffusion-at-home"
    unit = home / ".config/systemd/user" / UNIT
    said = dah("worker", "service", "install").refuses(ConfigError.exit_code)
    assert said == "no run has been joined yet: `dah worker join ADDRESS` first, then install the service"
    StateFolder(state).remember("tiny-00000000", "Squares", ["http://127.0.0.1:1"])
    made = dah("worker", "service", "install", "--json").result
    assert (made["unit"], made["started"]) == (str(unit), False)
    assert "systemctl --user enable --now" in made["next"]
    assert unit.read_text() == dah("worker", "service", "install", "--print").out
    assert dah("worker", "service", "show", "--json").result == {"unit": str(unit), "installed": True, "systemd": {}}
    assert dah("worker", "service", "uninstall", "--json").result["removed"]
    assert not unit.exists()
