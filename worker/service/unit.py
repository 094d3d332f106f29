"""The text of the worker's systemd user unit, hardened as far as a unit without privileges can be: pure functions.

A user's service manager has no privileges, which decides what its units can do (systemd.exec(5)):

- what the kernel filters by seccomp works everywhere;
- another view of the file system takes a user namespace of the service's own (PrivateUsers), which some systems forbid: there
  the unit would not start, so who writes it asks first (`UserManager.can_isolate`) and leaves that part out;
- which devices may be opened (DevicePolicy, PrivateDevices) only the system's manager can say: here file permissions decide;
- forbidding memory that is written and then run (MemoryDenyWriteExecute) is no option: torch and CUDA compile at run time.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from diffusion_at_home.errors import ConfigError, HardwareError, LeaveRun, VersionMismatch

NO_RESTART: Final = tuple(
    sorted({2, *(error.exit_code for error in (ConfigError, VersionMismatch, LeaveRun, HardwareError))})
)
"""Exit codes that a restart does not heal: a person has to do something first. 2 is a wrong command line."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """All that the service sees of its user's home."""

    state: Path
    """Key, joined runs, log and unsent work; it writes here."""
    cache: Path
    """Downloads, and what CUDA compiles; it writes here."""
    readable: tuple[Path, ...]
    """Settings, Python and this software."""


def installation(home: Path) -> tuple[Path, ...]:
    """Folders below `home` that this very Python imports from."""
    package = importlib.util.find_spec("diffusion_at_home")
    assert package is not None
    assert package.origin is not None
    interpreter = Path(sys.executable).resolve().parents[1]
    places = [sys.prefix, sys.base_prefix, *sys.path, str(Path(package.origin).parents[1]), str(interpreter)]
    found = {Path(place).absolute() for place in places if place and Path(place).exists()}
    below = {place for place in found if home in place.parents}
    return tuple(sorted(place for place in below if below.isdisjoint(place.parents)))


def settings_place(settings: Path, home: Path) -> Path:
    """What has to stay visible of the file `settings`: its folder, in which a new one may replace it; but never all of a home."""
    folder = settings.parent
    return settings if folder == home or folder in home.parents else folder


def command_line(config: Path | None, state_dir: Path | None) -> tuple[str, ...]:
    """`dah worker run` of this installation. -P: nothing is imported from where it happens to be started."""
    options = [("--config", config), ("--state-dir", state_dir)]
    named = [word for name, path in options if path is not None for word in (name, str(path.absolute()))]
    return (sys.executable, "-P", "-m", "diffusion_at_home", "worker", "run", *named)


def unit_text(command: Sequence[str], sandbox: Sandbox, *, isolate: bool) -> str:
    """The unit that runs `command`; without `isolate` it sees the file system as its user does.

    Raises `ConfigError` for a path that no unit can name.
    """
    isolated = _ISOLATED.format(
        writable=f"{_path(sandbox.state)} {_path(sandbox.cache)}",
        readable=" ".join(f"-{_path(path)}" for path in sandbox.readable),
    )
    return _UNIT.format(
        command=" ".join(_quoted(word, "$$") for word in command),
        no_restart=" ".join(map(str, NO_RESTART)),
        cuda=_quoted(f"CUDA_CACHE_PATH={sandbox.cache / 'cuda'}", "$"),
        files=isolated if isolate else _NOT_ISOLATED,
    )


def _quoted(text: str, dollar: str) -> str:
    """One word, in which systemd expands nothing (systemd.service(5), "Command lines"; specifiers in systemd.unit(5))."""
    if not text.isprintable():
        raise ConfigError(f"{text!r} has a character that a systemd unit cannot name: choose another path")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", dollar)
    return f'"{escaped}"'


def _path(path: Path) -> str:
    if ":" in str(path):
        raise ConfigError(f"{path} has a colon, which a systemd unit cannot name: choose another path")
    return _quoted(str(path), "$")


_UNIT: Final = """\
# Written by `dah worker service install`, each time anew. Changes of your own belong into a drop-in:
# systemctl --user edit diffusion-at-home-worker
[Unit]
Description=diffusion@home worker
# Ten starts within an hour: something does not pass by itself.
StartLimitIntervalSec=1h
StartLimitBurst=10

[Service]
ExecStart={command}
# A line that is down is waited out by the worker itself; this is for what it does not survive.
Restart=on-failure
RestartSec=1min
# Wrong settings, another protocol version, a run that is over or shuts this worker out, hardware that cannot.
RestartPreventExitStatus={no_restart}

# Once: what is trained is handed in. Only the worker is told; its processes, one a GPU, end with it.
KillSignal=SIGTERM
KillMode=mixed
# So long a large delta takes on a slow line. What is cut off stays in the state folder, and is sent after the next start.
TimeoutStopSec=15min

# Everything else on this machine comes first. IOWeight counts only where it is delegated to users, so the disk is asked idly too.
Nice=10
CPUWeight=20
IOWeight=20
IOSchedulingClass=idle
# The first to go when memory runs out.
OOMScoreAdjust=500

# No program that it starts can have more rights than it has.
NoNewPrivileges=yes
# The system calls of ordinary services. Any other fails, and the worker goes on.
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
SystemCallArchitectures=native
# The internet; NETLINK and UNIX are for looking up names and for local control.
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
# No containers, no real-time priority, no setuid files, no foreign execution domain.
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
# What it writes is its user's alone.
UMask=0077
# CUDA keeps what it compiles where the worker may write.
Environment={cuda}

{files}
[Install]
WantedBy=default.target
"""

_ISOLATED: Final = """\
# A user namespace of its own, without which a user unit has no other view of the file system than its user.
PrivateUsers=yes
# All is read-only,
ProtectSystem=strict
# homes are empty,
ProtectHome=tmpfs
# but for state and downloads,
BindPaths={writable}
# and, to read only, for settings, Python and this software.
BindReadOnlyPaths={readable}
# A /tmp of its own.
PrivateTmp=yes
# Nothing in /proc and /sys can be set.
ProtectKernelTunables=yes
"""

_NOT_ISOLATED: Final = """\
# This system gives a user's services no namespaces, so this one sees every file that its user sees. A container isolates more.
"""
