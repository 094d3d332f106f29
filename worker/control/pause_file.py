"""The owner's pause, kept from start to start in one small file: there while the worker is paused, else not."""

from __future__ import annotations

from pathlib import Path

from pydantic import AwareDatetime, ValidationError

from diffusion_at_home.config.toml import Section
from diffusion_at_home.errors import ConfigError, storage_errors
from worker.atomic_file import write_atomically
from worker.control.wishes import Pause


class _Kept(Section):
    until: AwareDatetime | None


class PauseFile:
    """One process at a time writes it: the one that owns the state folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Pause | None:
        """The pause, whether or not its time is over. Raises `ConfigError` if the file was damaged."""
        try:
            return Pause(_Kept.model_validate_json(self._path.read_bytes()).until)
        except FileNotFoundError:
            return None
        except ValidationError:
            raise ConfigError(f"{self._path} is damaged: `dah worker resume` or `dah worker pause` mends it") from None

    def write(self, pause: Pause | None) -> None:
        """Remember `pause`; None forgets it. Raises `StorageError`."""
        if pause is None:
            with storage_errors(self._path):
                self._path.unlink(missing_ok=True)
        else:
            write_atomically(self._path, _Kept(until=pause.until).model_dump_json().encode())
