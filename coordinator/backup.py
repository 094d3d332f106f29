"""Backs a run up while its coordinator serves it: a folder that is the run as it was at one instant.

The order makes it consistent, not a lock: first the newest saved state, of version S; then the ledger, at one instant, whose
newest version is N >= S; then every file that this ledger names. What leads from S to N was durable before the ledger named
it and is never changed, so a coordinator that starts from the copy steps S to N as after a crash. What the
coordinator deletes meanwhile (a snapshot that is too old) makes the whole begin again with what is there then.

A further backup into the same folder copies only what is new. The former one stays whole until the new ledger, last of all,
takes the former one's name; only then is deleted what the new one does not need. `backup.json` holds the digests of
ledger and state, which nothing else vouches for: the former's and the new one's around that moment, else one.

Not taken: uploads that are not whole, the log, and evaluations or checkpoints that were due and not yet made.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import filelock
import torch
from pydantic import Field, ValidationError

from coordinator.blobs import file_sha256
from coordinator.database.opening import copy_ledger
from coordinator.file_copy import copy_file, sync_tree
from coordinator.ledger import Ledger
from coordinator.parts import FOLDERS, Gone, Part, damaged, parts, spec_of, state_version, states
from coordinator.records import Version, now_ms
from coordinator.run_folder import RunFolder
from coordinator.states import anchor_name
from diffusion_at_home.config.toml import Section, first_mistake
from diffusion_at_home.errors import ConfigError, IntegrityError, storage_errors
from diffusion_at_home.model.build import build_model
from diffusion_at_home.outer.state import load_weights, state_digest
from diffusion_at_home.runspec import RunSpec
from diffusion_at_home.sync import sync_folder
from diffusion_at_home.wire.layout import Layout

_TRIES: Final = 5
"""A coordinator that deletes what is being copied that often in a row is not what is wrong."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Taken(Section):
    """One backup that was completed."""

    taken_at_ms: int
    """When its ledger was copied, since 1970."""
    ledger_sha256: Sha256
    """Of the ledger's file."""
    states: dict[Annotated[str, Field(pattern=r"^[a-z]+-[0-9]+\.safetensors$")], Sha256]
    """Of the files in `state`, by name."""
    version: int
    """The newest one in the ledger."""
    weights_digest: Sha256
    """Of that version."""


class Mark(Section):
    """`backup.json`: what a folder that has it is a backup of."""

    run_id: str
    """`RunSpec.run_id`."""
    taken: tuple[Taken, ...] = ()
    """One; none before the first is complete; the former and the new one while the ledger is replaced."""

    @classmethod
    def load(cls, backup: RunFolder) -> Mark:
        """That of a folder. Raises `ConfigError` if it is no backup, `IntegrityError`."""
        path = backup.backup_mark
        if not path.is_file():
            raise ConfigError(f"{backup.root} is not a backup: make one with `dah coordinator backup`")
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise IntegrityError(f"{path} is damaged ({first_mistake(error)}): use another backup") from None

    def save(self, backup: RunFolder) -> None:
        """Store it, durable and all or nothing. Raises `StorageError`."""
        path = backup.backup_mark
        with storage_errors(path):
            temporary = path.with_suffix(".tmp")
            with temporary.open("w") as file:
                file.write(self.model_dump_json(indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)

    def of_ledger(self, sha256: str) -> Taken | None:
        """The backup whose ledger has that digest."""
        return next((taken for taken in self.taken if taken.ledger_sha256 == sha256), None)


@dataclass(frozen=True, slots=True)
class BackedUp:
    """What a backup holds now, and what it took to bring it there."""

    run_id: str
    folder: str
    version: int
    images: int
    contributions: int
    files: int
    copied_files: int
    """That were not there yet, ledger and state among them."""
    copied_bytes: int


def back_up(folder: RunFolder, out: RunFolder) -> BackedUp:
    """Make `out` a copy of the run in `folder`, which may be live.

    Raises `ConfigError` if `out` is taken by something else, `StorageError`, and `IntegrityError` that names what of the run
    is damaged or missing. Whatever it raises, a former backup in `out` is whole.
    """
    folder.check()
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        run_id = ledger.run_id()
    with _alone(folder, out), _incoming(out) as incoming:
        work = _Backup(folder, out, _mark(out, run_id), incoming)
        for tries_left in reversed(range(_TRIES)):
            try:
                return work.take()
            except Gone as gone:
                if tries_left == 0:
                    raise IntegrityError(f"{gone.path} is missing: restore it from a backup") from None
    raise AssertionError("the last try returns or raises")


def check_state(path: Path, spec: RunSpec, history: Sequence[Version]) -> None:
    """That the state in `path` is of the version that its name says, one of `history`. Raises `IntegrityError`."""
    config = spec.config
    with torch.device("meta"):  # only the shapes are wanted
        layout = Layout.of(build_model(config.model, config.objective, spec.tokenizer.encode(), config.run.seed))
    state_digest(path)  # reads all of it
    published, _ = load_weights(path)
    expected = history[state_version(path.name)].weights_digest
    if published.shape != (layout.num_elements,) or layout.weights_digest(published) != expected:
        raise damaged(path)


class _Backup:
    """One call of `back_up`, with what it has copied so far."""

    def __init__(self, folder: RunFolder, out: RunFolder, mark: Mark, incoming: Path) -> None:
        self._folder = folder
        self._out = out
        self._mark = mark
        self._incoming = incoming
        sha256 = file_sha256(out.ledger) if out.ledger.is_file() else ""
        self._former = mark.of_ledger(sha256)
        self._hashes: dict[str, str] = {}
        self._copied_files = 0
        self._copied_bytes = 0

    def take(self) -> BackedUp:
        """All of it. Raises `Gone` when something was deleted meanwhile."""
        hashes = {state.name: self._copy_state(state) for state in states(self._folder)}
        incoming = self._incoming / self._out.ledger.name
        copy_ledger(self._folder.ledger, incoming)
        with closing(Ledger(incoming, read_only=True)) as ledger:
            history, anchor = ledger.versions(), ledger.anchor()
            if anchor is not None and anchor_name(anchor.version) not in hashes:
                raise Gone(self._folder.state / anchor_name(anchor.version))  # it was moved on meanwhile
            self._check_line(history)
            self._check_states(hashes, spec_of(self._folder, ledger), history)
            needed = parts(self._folder, ledger)
            for part in needed:
                self._copy_part(part)
            contributions = ledger.totals().contributions
        self._count(incoming)
        newest = history[-1]
        taken = Taken(
            taken_at_ms=now_ms(),
            ledger_sha256=file_sha256(incoming),
            states=hashes,
            version=newest.version,
            weights_digest=newest.weights_digest,
        )
        self._install(taken)
        self._forget_all_but(needed, taken)
        return BackedUp(
            run_id=self._mark.run_id,
            folder=str(self._out.root),
            version=newest.version,
            images=newest.images,
            contributions=contributions,
            files=1 + len(hashes) + len(needed),
            copied_files=self._copied_files,
            copied_bytes=self._copied_bytes,
        )

    def _copy_state(self, state: Path) -> str:
        """The state is in the backup already, or comes to `incoming`; returns its sha256."""
        name, before = state.name, self._former.states if self._former else {}
        if name in before and (self._out.state / name).is_file():
            return before[name]  # a version's state is the same bits whenever it is saved
        if name not in self._hashes:
            target = self._incoming / name
            self._hashes[name] = copy_file(state, target, scratch=self._incoming / "scratch")
            self._count(target)
        return self._hashes[name]

    def _check_states(self, names: Iterable[str], spec: RunSpec, history: Sequence[Version]) -> None:
        """That those which were copied are what was published."""
        for name in names:
            if (copied := self._incoming / name).is_file():
                try:
                    check_state(copied, spec, history)
                except IntegrityError:
                    raise damaged(self._folder.state / name) from None

    def _check_line(self, history: Sequence[Version]) -> None:
        """That the run goes on from the former backup: another line of it must not take that one's place."""
        former = self._former
        if former is None or (
            former.version < len(history) and history[former.version].weights_digest == former.weights_digest
        ):
            return
        raise ConfigError(
            f"{self._out.root} holds version {former.version}, which the run in {self._folder.root} has not or has "
            "otherwise: choose a new folder"
        )

    def _copy_part(self, part: Part) -> None:
        target = self._out.root / part.path
        if target.is_file() and not (part.may_change and file_sha256(target) != part.sha256):
            return
        copy_file(self._folder.root / part.path, target, scratch=self._incoming / "scratch", sha256=part.sha256)
        self._count(target)

    def _count(self, copied: Path) -> None:
        self._copied_files += 1
        self._copied_bytes += copied.stat().st_size

    def _install(self, taken: Taken) -> None:
        """All is there but for the ledger: put it in the former one's place."""
        out = self._out
        with storage_errors(out.root):
            out.state.mkdir(exist_ok=True)
            for name in taken.states:
                if (state := self._incoming / name).is_file():
                    state.replace(out.state / name)
            sync_tree(out.root)
            both = (self._former, taken) if self._former else (taken,)
            Mark(run_id=self._mark.run_id, taken=both).save(out)
            (self._incoming / out.ledger.name).replace(out.ledger)
            sync_folder(out.root)
            Mark(run_id=self._mark.run_id, taken=(taken,)).save(out)

    def _forget_all_but(self, needed: Sequence[Part], taken: Taken) -> None:
        out = self._out
        kept = {out.root / part.path for part in needed} | {out.state / name for name in taken.states}
        with storage_errors(out.root):
            for name in (*FOLDERS, out.state.name):
                for path in sorted((out.root / name).rglob("*"), reverse=True):  # what is in a folder before the folder
                    if path.is_dir():
                        _remove_if_empty(path)
                    elif path not in kept:
                        path.unlink()


def _mark(out: RunFolder, run_id: str) -> Mark:
    """That of `out`, which gets one before anything else comes to it."""
    if not out.backup_mark.exists():
        Mark(run_id=run_id).save(out)
    mark = Mark.load(out)
    if mark.run_id != run_id:
        raise ConfigError(f"{out.root} is a backup of the run {mark.run_id}, not of {run_id}: choose another folder")
    return mark


@contextmanager
def _alone(folder: RunFolder, out: RunFolder) -> Iterator[None]:
    """Within, `out` is a folder for this run's backup, and nobody else backs up to it."""
    root = out.root.resolve()
    if root.is_relative_to(folder.root.resolve()):
        raise ConfigError(f"{out.root} lies in the run's own folder: choose another one, better on another disk")
    lock = filelock.FileLock(out.root / "backup.lock")
    with storage_errors(out.root):
        out.root.mkdir(parents=True, exist_ok=True)
        if not out.backup_mark.exists() and any(path.name != "backup.lock" for path in out.root.iterdir()):
            raise ConfigError(f"{out.root} is not empty and no backup: choose a new folder, or one with a backup")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise ConfigError(f"{out.root} is being backed up to: wait until that is done") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _incoming(out: RunFolder) -> Iterator[Path]:
    """A folder in `out` for what is not yet part of a backup."""
    incoming = out.root / "incoming"
    with storage_errors(incoming):
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir()
    try:
        yield incoming
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _remove_if_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()
