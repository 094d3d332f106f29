"""The worker's systemd user unit, and the manager that runs it; systemd itself reads the unit where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_at_home.errors import ConfigError, HardwareError, RetryCall, ShutOut, StorageError, VersionMismatch
from worker.service.unit import NO_RESTART, Sandbox, command_line, installation, settings_place, unit_text
from worker.service.user_manager import UNIT, UserManager

SANDBOX = Sandbox(Path("/home/ada/state"), Path("/home/ada/cache"), (Path("/home/ada/venv"),))
COMMAND = ("/home/ada/venv/bin/python", "-m", "diffusion_at_home", "worker", "run")


def settings(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


def test_what_no_restart_heals_is_not_started_again() -> None:
    shown = settings(unit_text(COMMAND, SANDBOX, isolate=True))["RestartPreventExitStatus"]
    assert shown == " ".join(map(str, NO_RESTART))
    assert {ConfigError.exit_code, VersionMismatch.exit_code, ShutOut.exit_code, HardwareError.exit_code} < set(
        NO_RESTART
    )
    assert {0, 1, RetryCall.exit_code, StorageError.exit_code}.isdisjoint(NO_RESTART)


def test_the_service_runs_this_very_installation() -> None:
    assert command_line(None, None)[0] == sys.executable
    named = command_line(Path("worker.toml"), Path("state"))
    assert named[-4:] == ("--config", str(Path("worker.toml").absolute()), "--state-dir", str(Path("state").absolute()))


def test_an_isolated_service_sees_nothing_of_the_home_but_its_own() -> None:
    unit = settings(unit_text(COMMAND, SANDBOX, isolate=True))
    assert (unit["ProtectHome"], unit["ProtectSystem"], unit["PrivateUsers"]) == ("tmpfs", "strict", "yes")
    assert unit["BindPaths"] == '"/home/ada/state" "/home/ada/cache"'
    assert unit["BindReadOnlyPaths"] == '-"/home/ada/venv"'


def test_where_there_are_no_namespaces_the_rest_of_the_sandbox_stays() -> None:
    unit = settings(unit_text(COMMAND, SANDBOX, isolate=False))
    assert "PrivateUsers" not in unit
    assert "ProtectHome" not in unit
    assert unit["NoNewPrivileges"] == "yes"
    assert unit["SystemCallFilter"] == "@system-service"


def test_memory_that_is_written_and_run_is_not_forbidden_for_torch_compiles() -> None:
    assert "MemoryDenyWriteExecute" not in settings(unit_text(COMMAND, SANDBOX, isolate=True))


def test_nothing_in_a_path_is_expanded() -> None:
    odd = Path('/home/ada/100% "my" $HOME\\x')
    unit = settings(unit_text(("/bin/dah", str(odd)), Sandbox(odd, odd, ()), isolate=True))
    assert unit["ExecStart"] == r'"/bin/dah" "/home/ada/100%% \"my\" $$HOME\\x"'
    assert unit["BindPaths"].startswith(r'"/home/ada/100%% \"my\" $HOME\\x"')


@pytest.mark.parametrize("path", ["/home/ada/a\nExecStart=/bin/evil", "/home/ada/a:b"])
def test_a_path_that_no_unit_can_name_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="choose another path"):
        unit_text(COMMAND, Sandbox(Path(path), Path("/c"), ()), isolate=True)


def test_what_this_python_imports_from_stays_visible() -> None:
    home = Path(sys.base_prefix).resolve().parents[-2]  # as if all of it were a home
    visible = installation(home)
    assert all(home in place.parents for place in visible)
    assert not any(other in place.parents for place in visible for other in visible)
    wanted = Path(sys.base_prefix)
    assert any(place == wanted or place in wanted.parents for place in visible)
    assert installation(Path("/nobody/lives/here")) == ()


def test_settings_that_lie_in_the_home_itself_do_not_show_all_of_it() -> None:
    home = Path("/home/ada")
    assert settings_place(home / ".config/dah/worker.toml", home) == home / ".config/dah"
    assert settings_place(home / "worker.toml", home) == home / "worker.toml"
    assert settings_place(Path("/home/worker.toml"), home) == Path("/home/worker.toml")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here to read the unit")
@pytest.mark.parametrize("isolate", [True, False])
def test_systemd_understands_the_unit(tmp_path: Path, isolate: bool) -> None:
    file, runtime = tmp_path / UNIT, tmp_path / "run"
    runtime.mkdir(mode=0o700)
    odd = tmp_path / 'a 100% "b"'
    file.write_text(unit_text((sys.executable, str(odd)), Sandbox(odd, tmp_path, (odd,)), isolate=isolate))
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(file)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
    )
    assert (done.returncode, done.stderr) == (0, "")


class Systemd:
    """Programs that are called like systemd's, note how they were called, and fail where they are told to."""

    def __init__(self, folder: Path, fails: str = "nothing") -> None:
        self._log = folder / "calls"
        self.programs = folder / "bin"
        self.programs.mkdir()
        for name in ("systemctl", "systemd-run"):
            script = self.programs / name
            script.write_text(
                f'#!/bin/sh\necho "{name} $*" >> "{self._log}"\ncase "$*" in *{fails}*) exit 1;; esac\n'
                'case "$*" in *show\\ *) printf "ActiveState=active\\nSubState=running\\n";; esac\n'
            )
            script.chmod(0o700)

    @property
    def calls(self) -> list[str]:
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [line for line in lines if "show-environment" not in line]

    def manager(self, folder: Path) -> UserManager:
        return UserManager(folder, str(self.programs))


def test_a_new_unit_is_read_enabled_and_started(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path)
    manager = systemd.manager(tmp_path / "user")
    manager.write("[Service]\n")
    assert manager.is_there()
    assert manager.can_isolate()
    manager.start()
    trial, *started = systemd.calls
    assert trial.startswith("systemd-run --user")
    assert "PrivateUsers=yes" in trial
    assert started == [f"systemctl --user {what}" for what in ("daemon-reload", f"enable {UNIT}", f"restart {UNIT}")]
    assert manager.state() == {"ActiveState": "active", "SubState": "running"}
    assert manager.file.read_text() == "[Service]\n"


def test_a_system_that_gives_no_namespaces_is_found_out_beforehand(tmp_path: Path) -> None:
    assert not Systemd(tmp_path, fails="PrivateUsers").manager(tmp_path).can_isolate()


def test_removing_it_stops_it_first_and_is_no_fault_where_there_is_none(tmp_path: Path) -> None:
    systemd = Systemd(tmp_path)
    manager = systemd.manager(tmp_path / "user")
    assert not manager.remove()
    assert systemd.calls == []
    manager.write("[Service]\n")
    assert manager.remove()
    assert systemd.calls == [f"systemctl --user disable --now {UNIT}", "systemctl --user daemon-reload"]
    assert not manager.file.exists()


def test_a_unit_that_does_not_start_is_one_sentence(tmp_path: Path) -> None:
    manager = Systemd(tmp_path, fails="restart").manager(tmp_path)
    with pytest.raises(ConfigError, match=r"`systemctl --user restart .*` failed: run it yourself"):
        manager.start()


def test_where_no_manager_answers_the_unit_is_written_all_the_same(tmp_path: Path) -> None:
    for manager in (Systemd(tmp_path, fails="show").manager(tmp_path), UserManager(tmp_path, "/nowhere")):
        assert not manager.is_there()
        assert manager.state() == {}
        manager.write("[Service]\n")
        assert manager.remove()
