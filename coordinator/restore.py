"""Makes a run of a backup, on this machine or another one, so that its volunteers go on without a hand.

What the run did after the backup is lost: its receipts, the versions they made, the leases and sessions it gave. Workers do
not have to be told. One that holds a version from the lost time gets a snapshot: at once if the run has no version of that
number yet, else when what the next updates lead to has not the digest that the grant says. A session of the lost time is
unknown: the worker joins again; all others stay valid. A lease of the lost time is unknown: the worker asks for the next.

The last holds because numbers jump: those that the lost time has used are never given to another lease, which a
worker that still trains the lost one would otherwise hand in for. A lease that is older than the backup is as it
was then: handed in again it counts once, and a worker that has forgotten it gives it back by asking for the next.
"""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from coordinator.backup import Mark, Taken, check_state
from coordinator.file_copy import copy_file, sync_tree
from coordinator.ledger import Ledger
from coordinator.parts import Gone, damaged, parts, spec_of
from coordinator.run_folder import RunFolder
from diffusion_at_home.errors import ConfigError, IntegrityError, storage_errors
from diffusion_at_home.sync import sync_folder

SKIPPED_NUMBERS: Final = 10**9
"""A thousand leases a second for eleven days: more than any run grants between two backups. A ledger counts to 2^63."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A run that was made of a backup."""

    run_id: str
    folder: str
    version: int
    images: int
    contributions: int
    taken_at_ms: int
    """When the backup was taken, since 1970: the receipts after that are lost."""


def restore(backup: RunFolder, folder: RunFolder) -> Restored:
    """Make a run in `folder` of `backup`, every file of which is checked; all or nothing.

    Raises `ConfigError` if `folder` is taken or `backup` is none, `StorageError`, and `IntegrityError` that names what
    is damaged or missing.
    """
    if folder.root.exists() and any(folder.root.iterdir()):
        raise ConfigError(f"{folder.root} is not empty: choose a new folder for the run")
    mark = Mark.load(backup)
    draft = RunFolder(folder.root.with_name(f".{folder.root.name}.new"))
    with storage_errors(folder.root):
        shutil.rmtree(draft.root, ignore_errors=True)
        draft.root.mkdir(parents=True)
        try:
            restored = _fill(draft, backup, mark, folder)
        except Gone as gone:
            raise IntegrityError(f"{gone.path} is missing: use another backup") from None
        if folder.root.exists():
            folder.root.rmdir()
        draft.root.rename(folder.root)
        sync_folder(folder.root.parent)
    return restored


def _fill(draft: RunFolder, backup: RunFolder, mark: Mark, folder: RunFolder) -> Restored:
    taken = _copy_ledger(draft, backup, mark)
    scratch = draft.root / "scratch"
    with closing(Ledger(draft.ledger)) as ledger:  # one of older software is upgraded here
        ledger.skip_numbers(SKIPPED_NUMBERS)
        history, spec = ledger.versions(), spec_of(backup, ledger)
        for name, sha256 in taken.states.items():
            copy_file(backup.state / name, draft.state / name, scratch=scratch, sha256=sha256)
            check_state(draft.state / name, spec, history)
        for part in parts(backup, ledger):
            copy_file(backup.root / part.path, draft.root / part.path, scratch=scratch, sha256=part.sha256)
        contributions = ledger.totals().contributions
    sync_tree(draft.root)
    newest = history[-1]
    return Restored(
        mark.run_id, str(folder.root), newest.version, newest.images, contributions, taken_at_ms=taken.taken_at_ms
    )


def _copy_ledger(draft: RunFolder, backup: RunFolder, mark: Mark) -> Taken:
    if not mark.taken:
        raise ConfigError(f"{backup.root} holds no complete backup: use another one")
    sha256 = copy_file(backup.ledger, draft.ledger, scratch=draft.root / "scratch")
    taken = mark.of_ledger(sha256)
    if taken is None:
        raise damaged(backup.ledger)
    return taken
