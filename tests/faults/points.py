"""Every point at which a fault is put into a run: the steps of ARCHITECTURE.md's "What is durable when", by name.

A point lies where the platform can be asked what a process is about to do, so that nothing of ours is patched and the code
knows of no test: at a file operation, in the middle of writing a file, at a transaction, at an event of the log. To add one,
add a row here; the tests `test_*_killed_anywhere.py` fail for a row that no run passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Who(StrEnum):
    """Whose process it is."""

    COORDINATOR = "coordinator"
    WORKER = "worker"


class Under(StrEnum):
    """What a run must suffer to pass a point."""

    TRAFFIC = "traffic"
    """Workers that work."""
    QUOTA = "quota"
    """A quota that it has outgrown, besides."""
    DAMAGE = "damage"
    """A byte that flips on its disk, besides."""
    INIT = "init"
    """That it is made."""
    BACKUP = "backup"
    """That it is backed up, to a folder `backup` which has a former one."""
    RESTORE = "restore"
    """That it is restored, to a folder `restored`."""
    JUDGING = "judging"
    """That its checkpoints are judged, each after seconds."""
    ORDERS = "orders"
    """That its operator gives orders, besides."""


class Operation(StrEnum):
    """What is done to a file."""

    READ = "read"
    """It is opened to be read."""
    WRITE = "write"
    """It is opened to be written or appended to."""
    RENAME = "rename"
    REMOVE = "remove"
    LINK = "link"
    CONNECT = "connect"
    """It is opened as a database."""


@dataclass(frozen=True, slots=True)
class File:
    """Just before `operation`, or as soon as it has returned."""

    operation: Operation
    path: str
    """Regular expression for the end of the path; of a rename or a link, of either path."""
    after: bool = False


@dataclass(frozen=True, slots=True)
class Half:
    """Within the writing of a file: the first piece is on its way to the disk, the next one is not written."""

    path: str
    """Regular expression for the end of the path."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """Just before a transaction is committed, or as soon as that is durable."""

    statements: str
    """Regular expression found in its statements, such as "INSERT leases;UPDATE run"."""
    after: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """When the log is told."""

    name: str


Seam = File | Half | Transaction | Event


@dataclass(frozen=True, slots=True)
class Point:
    """A moment in the life of a process."""

    name: str
    who: Who
    seam: Seam
    under: Under = Under.TRAFFIC


_SHA256: Final = "[0-9a-f]{64}"
_UPLOAD: Final = rf"staging/upload-\d+-{_SHA256}\.part"
_ACCEPT: Final = "INSERT contributions"
_CLOSE: Final = r"^(?!.*INSERT versions).*UPDATE rounds"
_GIVE_BACK: Final = r"^(?!.*(INSERT contributions|UPDATE rounds)).*UPDATE leases"


def _around(step: str, operation: Operation, path: str) -> dict[str, Seam]:
    return {f"{step}: before": File(operation, path), f"{step}: after": File(operation, path, after=True)}


def _committed(step: str, statements: str) -> dict[str, Seam]:
    return {
        f"{step}: before its commit": Transaction(statements),
        f"{step}: after its commit": Transaction(statements, after=True),
    }


_COORDINATOR: Final[dict[str, Seam]] = {
    "start: ledger opened": File(Operation.CONNECT, r"ledger\.sqlite", after=True),
    "start: address written": File(Operation.WRITE, "run/address", after=True),
    **_committed("join", "INSERT workers"),
    **_committed("open", "INSERT rounds"),
    **_committed("grant", "INSERT leases"),
    **_committed("give back", _GIVE_BACK),
    "upload: before its first byte": File(Operation.WRITE, _UPLOAD, after=True),
    "upload: half": Half(_UPLOAD),
    "upload: before it is screened": File(Operation.READ, _UPLOAD),
    **_around("contribution's blob is renamed", Operation.RENAME, _UPLOAD),
    **_committed("contribution", _ACCEPT),
    "contribution: before its receipt": Event("contribution_accepted"),
    **_committed("close", _CLOSE),
    "update: before it is staged": File(Operation.WRITE, r"staging/update-\d+"),
    "update: half": Half(r"staging/update-\d+"),
    **_around("update's blob is renamed", Operation.RENAME, r"staging/update-\d+"),
    **_committed("version", "INSERT versions"),
    "state: before it is synced": File(Operation.READ, r"state/state-\d+\.tmp"),
    **_around("state is renamed", Operation.RENAME, r"state/state-\d+\.tmp"),
    **_around("old state is deleted", Operation.REMOVE, r"state/state-\d+\.safetensors"),
    "snapshot: half": Half(r"staging/snapshot-\d+"),
    **_around("snapshot's blob is renamed", Operation.RENAME, r"staging/snapshot-\d+"),
    **_committed("snapshot", "UPDATE versions"),
    **_around("blob is deleted", Operation.REMOVE, f"blobs/{_SHA256}"),
    **_around("export's link is made", Operation.LINK, r"exports/\d+-\w+\.safetensors"),
    **_committed("evaluation", "INSERT evaluations"),
    "checkpoint: half": File(Operation.WRITE, r"checkpoints/\.[^/]+\.part/manifest\.json", after=True),
    **_around("checkpoint is renamed", Operation.RENAME, r"checkpoints/\.[^/]+\.part"),
    **_committed("checkpoint", "INSERT checkpoints"),
    **_around("export's link is deleted", Operation.REMOVE, r"exports/\d+-\w+\.safetensors"),
}

_JUDGING: Final[dict[str, Seam]] = {
    "judgement: begun": File(Operation.WRITE, "judging/checkpoint", after=True),
    "encoder is renamed: after": File(Operation.RENAME, r"judging/out/encoder-\w+", after=True),
    "judgement is renamed: after": File(Operation.RENAME, "judging/judgement", after=True),
    **_committed("judgement", "INSERT judgements"),
}

_RETENTION: Final[dict[str, Seam]] = {
    **_around("anchor is linked", Operation.LINK, r"state/anchor-\d+\.safetensors"),
    **_committed("anchor", "INSERT anchors"),
    **_around("old anchor is deleted", Operation.REMOVE, r"state/anchor-\d+\.safetensors"),
    "anchor: contributions before it are deleted": Event("anchor_moved"),
    "updates: deleted": Event("updates_deleted"),
    **_committed("withdrawal", "INSERT withdrawn"),
    "withdrawn checkpoint: half deleted": File(Operation.REMOVE, r"model_index\.json", after=True),
    "withdrawn checkpoint: deleted": Event("checkpoint_deleted"),
}

_HEALING: Final[dict[str, Seam]] = {
    **_around("damaged blob is set aside", Operation.RENAME, f"damaged/{_SHA256}"),
    **_around("damaged checkpoint is set aside", Operation.RENAME, r"damaged/tiny-\d+"),
    **_around("damaged state is set aside", Operation.RENAME, r"damaged/state-\d+\.safetensors"),
}

_ORDERS: Final[dict[str, Seam]] = {
    "order: heard": Event("operator_acted"),
}

_INIT: Final[dict[str, Seam]] = {
    "init: half": File(Operation.RENAME, rf"\.run\.new/blobs/{_SHA256}", after=True),
    **_around("init: its folder is renamed", Operation.RENAME, r"\.run\.new"),
}

_BACKUP: Final[dict[str, Seam]] = {
    "backup: half": File(Operation.RENAME, rf"backup/blobs/{_SHA256}", after=True),
    **_around("backup: its state is renamed", Operation.RENAME, r"backup/state/state-\d+\.safetensors"),
    **_around("backup: its mark is renamed", Operation.RENAME, r"backup/backup\.json"),
    **_around("backup: its ledger is renamed", Operation.RENAME, r"backup/ledger\.sqlite"),
    **_around("backup: its former state is deleted", Operation.REMOVE, r"backup/state/state-\d+\.safetensors"),
}

_RESTORE: Final[dict[str, Seam]] = {
    "restore: half": File(Operation.RENAME, rf"\.restored\.new/blobs/{_SHA256}", after=True),
    **_around("restore: its folder is renamed", Operation.RENAME, r"\.restored\.new"),
}

_WORKER: Final[dict[str, Seam]] = {
    **_around("joined run is renamed", Operation.RENAME, r"runs/[^/]+\.json\.tmp"),
    **_around("saved residual is deleted", Operation.REMOVE, r"residual/[^/]+\.safetensors"),
    **_around("downloaded blob is renamed", Operation.RENAME, rf"blobs/{_SHA256}\.part"),
    **_around("status is renamed", Operation.RENAME, r"status\.json\.tmp"),
    "vector: half": Half(r"pending/[^/]+/lease-\d+\.dahv"),
    "facts: before they are written": File(Operation.WRITE, r"pending/[^/]+/lease-\d+\.json\.tmp"),
    **_around("facts are renamed", Operation.RENAME, r"pending/[^/]+/lease-\d+\.json\.tmp"),
    "submit: before its first byte": File(Operation.READ, r"pending/[^/]+/lease-\d+\.dahv", after=True),
    **_around("receipt is kept", Operation.WRITE, r"receipts/[^/]+\.jsonl"),
    # It has the receipt, and its outbox has the contribution, half of it, nothing of it.
    **_around("facts are deleted", Operation.REMOVE, r"pending/[^/]+/lease-\d+\.json"),
    **_around("vector is deleted", Operation.REMOVE, r"pending/[^/]+/lease-\d+\.dahv"),
    "receipt: before the next lease": Event("contribution_received"),
}

_TABLES: Final = (
    (Who.COORDINATOR, Under.TRAFFIC, _COORDINATOR),
    (Who.COORDINATOR, Under.QUOTA, _RETENTION),
    (Who.COORDINATOR, Under.DAMAGE, _HEALING),
    (Who.COORDINATOR, Under.INIT, _INIT),
    (Who.COORDINATOR, Under.BACKUP, _BACKUP),
    (Who.COORDINATOR, Under.RESTORE, _RESTORE),
    (Who.COORDINATOR, Under.JUDGING, _JUDGING),
    (Who.COORDINATOR, Under.ORDERS, _ORDERS),
    (Who.WORKER, Under.TRAFFIC, _WORKER),
)

POINTS: Final[dict[str, Point]] = {
    name: Point(name, who, seam, under) for who, under, seams in _TABLES for name, seam in seams.items()
}


def points_of(who: Who, under: Under = Under.TRAFFIC) -> list[Point]:
    """In the order in which a run passes them, more or less."""
    return [point for point in POINTS.values() if (point.who, point.under) == (who, under)]
