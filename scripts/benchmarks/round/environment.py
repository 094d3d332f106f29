"""The environment in which peers run: made once in the user's cache folder, none of it in ours."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

import platformdirs
from filelock import FileLock

from diffusion_at_home.errors import DahError

_PACKAGES: Final = Path(__file__).with_name("peers.txt")
_INSTALL_SECONDS: Final = 1200


class PeerUnavailable(DahError):
    """A peer cannot be installed here, or failed."""


def peers_python() -> Path:
    """The interpreter that has the peers, which is made first if need be. Raises `PeerUnavailable`."""
    wanted = _PACKAGES.read_bytes()
    root = platformdirs.user_cache_path("diffusion-at-home-bench")
    folder = root / f"peers-{sys.version_info.major}.{sys.version_info.minor}-{hashlib.sha256(wanted).hexdigest()[:12]}"
    python, stamp = folder / "bin" / "python", folder / "complete"
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f"{folder.name}.lock"):
        if not stamp.exists():
            print(f"installing the peers into {folder}, once", file=sys.stderr, flush=True)
            _run([sys.executable, "-m", "venv", "--clear", str(folder)])
            _run([str(python), "-m", "pip", "install", "--quiet", "--requirement", str(_PACKAGES)])
            stamp.touch()
    return python


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerUnavailable(f"the peers cannot be installed: {error}") from None
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise PeerUnavailable(f"the peers cannot be installed: {last[0]}")
