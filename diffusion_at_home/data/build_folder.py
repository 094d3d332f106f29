"""The folder of a data set while it is built: who may write there, which build was begun there, and what is deleted when."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal

import filelock
import PIL
from pydantic import ValidationError

from diffusion_at_home.config.toml import Section, first_mistake
from diffusion_at_home.data.build_settings import BuildSettings
from diffusion_at_home.data.manifest import MANIFEST_NAME, DataManifest
from diffusion_at_home.data.report import REPORT_NAME
from diffusion_at_home.data.report_page import PAGE_NAME
from diffusion_at_home.errors import ConfigError, DataError, storage_errors
from diffusion_at_home.sync import sync_folder

_IDENTITY_NAME: Final = "build.json"
_LOCK_NAME: Final = "build.lock"
_PARTS_NAME: Final = "parts"
_OURS: Final = re.compile(
    r"(train|held-out)-\d{5,7}\.(tar|tmp)|manifest\.(json|tmp)|build\.(json|tmp|lock)|parts|"
    + "|".join(map(re.escape, (REPORT_NAME, PAGE_NAME)))
)


class Identity(Section):
    """Which build this is: `build.json`, the first file of a data set."""

    format: Literal[1] = 1
    """Of parts and of this file."""
    name: str
    """Of the data set."""
    source: str
    """Description of the source."""
    units: int
    """Of the source."""
    units_sha256: str
    """Of their names (hex)."""
    settings: dict[str, Any]
    """All that the result depends on."""
    pillow: str
    """Version of what decodes and encodes pictures: another one may make other bytes."""

    @classmethod
    def of(cls, name: str, source: str, units: Sequence[str], settings: BuildSettings) -> Identity:
        """That of a build which is about to begin. Raises `ConfigError` if the opt-out file cannot be read."""
        digest = hashlib.sha256()
        for unit in units:
            digest.update(b"%s\0" % unit.encode(errors="surrogatepass"))
        return cls(
            name=name,
            source=source,
            units=len(units),
            units_sha256=digest.hexdigest(),
            settings=settings.identity(),
            pillow=PIL.__version__,
        )

    def difference(self, other: Identity) -> str:
        """What `other` has differently, in words; empty if nothing."""
        for key, value in self.settings.items():
            if other.settings.get(key) != value:
                return f"{key} = {value!r} instead of {other.settings.get(key)!r}"
        if (self.name, self.source) != (other.name, other.source):
            return f"{self.source} instead of {other.source}"
        if (self.units, self.units_sha256) != (other.units, other.units_sha256):
            return "the source before files were added or taken away"
        return ""


class BuildFolder:
    """`root`, in which a data set is built or complete."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.parts = root / _PARTS_NAME
        """Units that are ready, until the manifest is there."""

    @property
    def is_complete(self) -> bool:
        """Whether the manifest is there."""
        return (self.root / MANIFEST_NAME).is_file()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder; within, no other build writes there. Not for a complete data set, which nobody writes to.

        Raises:
            ConfigError: it holds something else, or another build is at work there.
            StorageError: it cannot be made.
        """
        if self.root.is_dir() and not all(_OURS.fullmatch(path.name) for path in self.root.iterdir()):
            raise ConfigError(f"{self.root} holds something else than a data set: choose a new folder")
        with storage_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.root / _LOCK_NAME)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                raise ConfigError(
                    f"another build is at work in {self.root}: wait for it, or choose a new folder"
                ) from None
        try:
            yield
        finally:
            with suppress(OSError):  # Windows deletes no file that is open
                (self.root / _LOCK_NAME).unlink()  # before others may take it
            lock.release()

    def begin(self, identity: Identity) -> None:
        """Note which build this is, or find that it goes on. Raises `ConfigError` if it is another one, `StorageError`."""
        begun = self._begun()
        if begun is None:
            with storage_errors(self.root):
                temporary = self.root / "build.tmp"
                temporary.write_text(identity.model_dump_json(indent=1) + "\n", encoding="utf-8")
                temporary.replace(self.root / _IDENTITY_NAME)
                self.parts.mkdir(exist_ok=True)
            sync_folder(self.root)
            return
        self._refuse_another(begun, identity)
        if begun.pillow != identity.pillow:
            raise ConfigError(
                f"{self.root} was begun with Pillow {begun.pillow}, and {identity.pillow} may make other bytes: "
                f"delete the folder and build again"
            )
        with storage_errors(self.root):
            self.parts.mkdir(exist_ok=True)
            for left in self.parts.glob("*.tmp"):
                left.unlink()

    def check(self, identity: Identity) -> DataManifest:
        """The manifest of the complete data set that `identity` would make again.

        Raises:
            ConfigError: it was made from another source or with other settings.
            DataError: it is damaged.
        """
        manifest = DataManifest.load(self.root)
        if manifest.name != identity.name:
            raise ConfigError(
                f"{self.root} holds the data set {manifest.name!r}: choose a new folder for {identity.name!r}"
            )
        begun = self._begun()
        if begun is not None:
            self._refuse_another(begun, identity)
        return manifest

    def forget_parts(self) -> None:
        """Delete what was only there to make the data set, once that is on the disk. Raises `StorageError`."""
        if self.parts.exists():
            with storage_errors(self.root), (self.root / MANIFEST_NAME).open("rb") as manifest:
                os.fsync(manifest.fileno())
            sync_folder(self.root)
            shutil.rmtree(self.parts, ignore_errors=True)  # the data set is whole without

    def _begun(self) -> Identity | None:
        path = self.root / _IDENTITY_NAME
        try:
            return Identity.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise DataError(
                f"{path} is damaged ({first_mistake(error)}): delete {self.root} and build it again"
            ) from None

    def _refuse_another(self, begun: Identity, identity: Identity) -> None:
        if difference := begun.difference(identity):
            raise ConfigError(f"{self.root} was begun with {difference}: choose a new folder, or delete this one")
