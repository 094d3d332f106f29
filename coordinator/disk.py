"""A run's files, by who owns them: what housekeeping and scrubbing both look after."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.blobs import BlobStore
from coordinator.checkpoints import Checkpoints
from coordinator.problems import Problems
from coordinator.run_folder import RunFolder
from coordinator.states import States


@dataclass(frozen=True, slots=True)
class Disk:
    """What lies in one run's folder, and what is wrong with it."""

    folder: RunFolder
    blobs: BlobStore
    states: States
    checkpoints: Checkpoints
    problems: Problems
