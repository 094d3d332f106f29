"""The folders of judgements: what one is made in, and how it becomes part of the run.

`judging/` is made anew for each and goes afterwards; all that lies in it when a coordinator starts was left by one that died.
A judgement is a folder of pictures in `judgements/`, renamed there whole and then named by the ledger; beside these lies what
every judgement makes anew from all of them (history, curves, animation). The encoder that the first one has
trained becomes the run's in the same way.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from coordinator.judging.process import JudgingFailed
from coordinator.judging.task import JudgingTask
from coordinator.ledger import Ledger
from coordinator.records import Checkpoint, Judgement, now_ms
from coordinator.run_folder import RunFolder, delete
from diffusion_at_home.errors import storage_errors
from diffusion_at_home.evaluation.places import (
    ANIMATION_NAME,
    HISTORY_NAME,
    PLOT_NAME,
    TRAINED_NAME,
    UNSEEN_NAME,
    grid_path,
    own_encoder_path,
)
from diffusion_at_home.runspec import RunSpec
from diffusion_at_home.sync import sync_folder

GRID_NAME: Final = "grid.png"
"""What a checkpoint drew for the fixed prompts."""
DERIVED: Final = (HISTORY_NAME, PLOT_NAME, ANIMATION_NAME)
"""Made anew by each judgement; where matplotlib is missing, there is no plot."""

_GIB: Final = 2**30
_MARK: Final = "checkpoint"
"""In `judging/`: a file with the name of what is being judged."""


@dataclass(frozen=True, slots=True)
class Made:
    """A judgement whose files are durable."""

    judgement: Judgement
    files: dict[str, str]
    """sha256 by path of what it was judged by, where the ledger does not name it yet."""


class Work:
    """Blocks, so it is called in a thread; one judgement at a time."""

    def __init__(self, folder: RunFolder, spec: RunSpec) -> None:
        self._folder = folder
        self._spec = spec

    @property
    def said(self) -> Path:
        """File for what the process says."""
        return self._folder.judging / "said"

    def prepare(
        self, checkpoint: Checkpoint, earlier: Sequence[Judgement], judging_files: Collection[str]
    ) -> JudgingTask:
        """Make the folder for a judgement of `checkpoint`, with the history before it. Raises `StorageError`."""
        section, folder = self._spec.config.judging, self._folder
        out, result = folder.judging / "out", folder.judging / "result.json"
        with storage_errors(folder.judging):
            self.clear()
            out.mkdir(parents=True)
            (out / HISTORY_NAME).write_text("".join(f"{judgement.result}\n" for judgement in earlier), encoding="utf-8")
            for judgement in earlier:
                grid = grid_path(out, self._spec.run_id, judgement.images)
                grid.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # damaged, or deleted by hand
                    grid.hardlink_to(folder.judgements / judgement.checkpoint / GRID_NAME)
            data = self._data(judging_files)
            (folder.judging / _MARK).write_text(checkpoint.name, encoding="utf-8")
        return JudgingTask(
            checkpoint=folder.checkpoints / checkpoint.name,
            data=data,
            out=out,
            result=result,
            encoder=folder.encoder if _are_named(folder.encoder, judging_files) else None,
            pictures=section.pictures,
            real=section.real,
            candidates=section.candidates,
            steps=section.steps or None,
            threads=section.threads,
            memory_bytes=int(section.memory_gib * _GIB),
        )

    def collect(
        self, task: JudgingTask, checkpoint: Checkpoint, earlier: Sequence[Judgement], judging_files: Collection[str]
    ) -> Made:
        """Bring what the process has made to its place. Raises `JudgingFailed`, `StorageError`."""
        found, judgement = _read(task.result, checkpoint)
        if any(before.encoder_sha256 != judgement.encoder_sha256 for before in earlier):
            raise JudgingFailed(f"{self._folder.encoder} is not what it was: restore it from a backup")
        with storage_errors(self._folder.judgements):
            self._folder.judgements.mkdir(exist_ok=True)
            files = self._keep_encoder(own_encoder_path(task.out, found["data"]), judging_files)
            grid = grid_path(task.out, self._spec.run_id, checkpoint.images)
            sheets = self._keep_sheets(checkpoint, (task.out / TRAINED_NAME, task.out / UNSEEN_NAME, grid))
        return Made(dataclasses.replace(judgement, sheets=sheets), files)

    def publish(self, task: JudgingTask) -> None:
        """The ledger names the judgement: show what was made anew of all of them, and clear up. Raises `StorageError`."""
        with storage_errors(self._folder.judgements):
            for name in DERIVED:
                with suppress(FileNotFoundError):  # there is no plot without matplotlib
                    (task.out / name).replace(self._folder.judgements / name)
            self.clear()

    def clear(self) -> None:
        """Nothing is being judged."""
        (self._folder.judging / _MARK).unlink(missing_ok=True)
        delete(self._folder.judging)

    # -- inside -------------------------------------------------------------------------------------------------

    def _data(self, judging_files: Collection[str]) -> Path:
        """The data set to compare with: the operator's, or the run's own, put together again by links."""
        if _are_named(self._folder.pictures, judging_files):
            return self._folder.pictures
        data, spec = self._folder.judging / "data", self._spec.data
        data.mkdir()
        for entry in spec.train:
            (data / entry.name).symlink_to((self._folder.blobs / entry.sha256).absolute())
        for entry in spec.held_out:
            (data / entry.name).symlink_to((self._folder.held_out / entry.name).absolute())
        spec.save(data)
        return data

    def _keep_encoder(self, made: Path, judging_files: Collection[str]) -> dict[str, str]:
        """The encoder that was trained for the first judgement is the run's."""
        encoder = self._folder.encoder
        if _are_named(encoder, judging_files):
            return {}
        delete(encoder)  # of a try whose end the ledger has not heard of
        made.rename(encoder)
        sync_folder(encoder.parent)
        return {f"{encoder.name}/{name}": sha256 for name, sha256 in sealed(encoder).items()}

    def _keep_sheets(self, checkpoint: Checkpoint, pictures: Sequence[Path]) -> dict[str, str]:
        made, kept = self._folder.judging / "judgement", self._folder.judgements / checkpoint.name
        made.mkdir()
        for picture in pictures:
            if picture.is_file():  # there may be no unseen captions
                picture.rename(made / (GRID_NAME if picture is pictures[-1] else picture.name))
        sheets = sealed(made)
        delete(kept)
        made.rename(kept)
        sync_folder(kept.parent)
        return sheets


def sweep_judging(folder: RunFolder, ledger: Ledger) -> tuple[str, ...]:
    """Delete what a coordinator that died has left; returns what would have become part of the run, below its folder.

    What it was judging then counts as a try: it may be what it died of. Raises `StorageError`.
    """
    judged, mark = {judgement.checkpoint for judgement in ledger.judged()}, folder.judging / _MARK
    if mark.is_file():
        name = mark.read_text(encoding="utf-8", errors="replace")
        if name not in judged and any(checkpoint.name == name for checkpoint in ledger.exported()):
            ledger.add_failed_judgement(name, "the coordinator ended meanwhile")
    delete(folder.judging)
    kept = folder.judgements
    gone = (
        [path for path in sorted(kept.iterdir()) if path.is_dir() and path.name not in judged] if kept.is_dir() else []
    )
    if folder.encoder.is_dir() and not _are_named(folder.encoder, ledger.judging_files()):
        gone.append(folder.encoder)
    for path in gone:
        delete(path)
    return tuple(str(path.relative_to(folder.root)) for path in gone)


def sealed(folder: Path) -> dict[str, str]:
    """sha256 (hex) by name of the files in `folder`, all of which are durable then."""
    found = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
    sync_folder(folder)
    return found


def _are_named(folder: Path, paths: Collection[str]) -> bool:
    """Whether files in `folder`, one of the run's, are among `paths`."""
    return any(path.startswith(f"{folder.name}/") for path in paths)


def _read(path: Path, checkpoint: Checkpoint) -> tuple[dict[str, Any], Judgement]:
    """What the process found, and the judgement but for its sheets. Raises `JudgingFailed`."""
    try:
        found = json.loads(path.read_bytes())
        unseen = found["unseen"]
        return found, Judgement(
            checkpoint=checkpoint.name,
            images=checkpoint.images,
            encoder_sha256=found["encoder_sha256"],
            frechet=found["frechet"]["value"],
            kernel=found["kernel"]["value"],
            retrieval=found["retrieval"]["top1"]["value"],
            unseen=None if unseen is None else unseen["top1"]["value"],
            result=json.dumps(found),
            sheets={},
            judged_at_ms=now_ms(),
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise JudgingFailed(f"what its process has left cannot be read ({error})") from error
