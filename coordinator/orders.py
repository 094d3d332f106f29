"""What the operator's commands write into a run's ledger, whether or not its coordinator runs, and what they read there.

Everything is checked before it is written: an order that would come to nothing is a `ConfigError` that says so.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from coordinator.blobs import BlobStore, read_spec
from coordinator.enrolment import Enrolment, hash_code
from coordinator.ledger import Ledger
from coordinator.lineage import lineage
from coordinator.records import Action, ActionKind, now_ms
from coordinator.run_folder import RunFolder
from coordinator.standing_orders import draining, pending_publication
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.config.trust import EnrolmentMode
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.identity import WorkerId
from diffusion_at_home.tls import with_invite

MAX_NOTE: Final = 500
_WORKER: Final = re.compile(r"[0-9a-f]{16}")
_INVITE_ID: Final = 8
"""Digits of an invitation's hash by which people name it."""


@dataclass(frozen=True, slots=True)
class Invited:
    """A new invitation."""

    invite: str
    """Its name, for `uninvite`; not the code, which is kept nowhere."""
    address: str
    """For the volunteers."""
    uses: int
    days: float


@dataclass(frozen=True, slots=True)
class Publication:
    """What an order to publish came to."""

    version: int
    number: int
    """Of the action; 0 if none was needed."""
    checkpoint: str
    """The one that was there already; empty if one will be made."""


class Orders:
    """Of the operator of one run."""

    def __init__(self, folder: RunFolder, ledger: Ledger) -> None:
        self._folder = folder
        self._ledger = ledger
        self._config = config_of(folder, ledger)
        self._mode = self._config.enrolment.mode
        self._workers = {worker.worker_id: worker for worker in ledger.workers()}
        self._enrolment = Enrolment(self._mode, self._workers.values(), ledger.actions())

    def invite(self, *, uses: int, days: float, note: str) -> Invited:
        """Make a code with which `uses` workers may join within `days`, 0 for ever. Raises `ConfigError`."""
        self._require(EnrolmentMode.INVITE, "an invitation")
        if not self._folder.address.is_file():
            raise ConfigError(f"{self._folder.root} is not served now: start its coordinator, which says the address")
        code = secrets.token_urlsafe(16)
        self._note(ActionKind.INVITE, hash_code(code), note, uses=uses, days=days)
        address = with_invite(self._folder.address.read_text().strip(), code)
        return Invited(hash_code(code)[:_INVITE_ID], address, uses, days)

    def uninvite(self, name: str) -> Action:
        """Take an invitation back; who came with it stays. Raises `ConfigError`."""
        found = [invite.subject for invite in self._enrolment.invites() if name and invite.subject.startswith(name)]
        if len(found) != 1:
            raise ConfigError(f"{name!r} is none of this run's invitations: `dah coordinator actions` lists them")
        return self._note(ActionKind.UNINVITE, found[0], "")

    def allow(self, worker: str, note: str) -> Action:
        """Put a worker, which need not have joined yet, on the list. Raises `ConfigError`."""
        self._require(EnrolmentMode.ALLOW_LIST, "a list")
        return self._note(ActionKind.ALLOW, _worker(worker), note)

    def disallow(self, worker: str, note: str) -> Action:
        """Take a worker off the list. Raises `ConfigError`."""
        if worker not in self._enrolment.listed():
            raise ConfigError(f"{worker!r} is not on this run's list: `dah coordinator actions` shows it")
        return self._note(ActionKind.DISALLOW, worker, note)

    def ban(self, worker: str, *, days: float, note: str) -> Action:
        """Shut a worker out for `days`, 0 for good. Raises `ConfigError`."""
        return self._note(ActionKind.BAN, self._known(worker), note, days=days)

    def unban(self, worker: str) -> Action:
        """Let a worker in again. Raises `ConfigError`."""
        if self._enrolment.ban_of(WorkerId(worker), now_ms()) is None:
            raise ConfigError(f"{worker!r} is not banned from this run: `dah coordinator actions` shows who is")
        return self._note(ActionKind.UNBAN, worker, "")

    def revoke(self, worker: str) -> Action:
        """End a worker's session. Raises `ConfigError`."""
        return self._note(ActionKind.REVOKE, self._known(worker), "")

    def rollback(self, version: int, note: str) -> Action:
        """Go back to `version`. Raises `ConfigError`."""
        history = self._ledger.versions()
        newest = history[-1]
        anchor = self._ledger.anchor()
        if self._is_complete():
            raise ConfigError(
                "the run is complete, and its versions stay as they are: offer an older checkpoint instead"
            )
        if not 0 <= version < newest.version:
            raise ConfigError(f"version {version} is not before the newest one, {newest.version}")
        if version not in lineage(history, newest.version):
            raise ConfigError(f"version {version} was left behind by a rollback: choose one before it")
        if anchor is not None and version < anchor.version:
            raise ConfigError(
                f"nothing is kept from which a version before {anchor.version} could be computed again: choose a later one"
            )
        return self._note(ActionKind.ROLLBACK, str(version), note)

    def drain(self, note: str) -> Action:
        """Grant no leases until `resume`. Raises `ConfigError`."""
        if self._is_complete():
            raise ConfigError("the run is complete, and grants no leases any more")
        if draining(self._ledger.actions()) is not None:
            raise ConfigError("the run is draining already: `dah coordinator resume` goes on")
        return self._note(ActionKind.DRAIN, "", note)

    def resume(self, note: str) -> Action:
        """Grant leases again. Raises `ConfigError`."""
        if draining(self._ledger.actions()) is None:
            raise ConfigError("the run was not drained: it grants leases")
        return self._note(ActionKind.RESUME, "", note)

    def publish(self, note: str) -> Publication:
        """Make a checkpoint of the newest version, unless there is one. Raises `ConfigError`."""
        newest = self._ledger.newest_version().version
        if newest == 0:
            raise ConfigError("nothing was trained yet: version 0 is the seed")
        exported = self._ledger.exported()
        if (made := next((one for one in exported if one.version == newest), None)) is not None:
            return Publication(newest, 0, made.name)
        order = pending_publication(self._ledger.actions(), exported)
        if order is not None and int(order.subject) == newest:
            return Publication(newest, order.action_id, "")
        return Publication(newest, self._note(ActionKind.PUBLISH, str(newest), note).action_id, "")

    def note(self, text: str) -> Action:
        """Write into the log of what was done. Raises `ConfigError`."""
        if not text.strip():
            raise ConfigError("the note is empty: say what the log should have")
        return self._note(ActionKind.NOTE, "", text.strip())

    def state(self) -> dict[str, Any]:
        """What holds now, and all that was done, as JSON."""
        return {
            "enrolment": self._mode.value,
            "version": self._ledger.newest_version().version,
            "draining": draining(self._ledger.actions()) is not None,
            "invites": [
                {
                    "invite": invite.subject[:_INVITE_ID],
                    "left": self._enrolment.left_of(invite.subject),
                    "until_ms": invite.until_ms,
                    "note": invite.note,
                }
                for invite in self._enrolment.invites()
            ],
            "listed": self._enrolment.listed(),
            "banned": [
                {"worker": ban.subject, "name": self._name(ban.subject), "until_ms": ban.until_ms, "note": ban.note}
                for ban in self._enrolment.bans(now_ms())
            ],
            "actions": [
                {
                    "number": action.action_id,
                    "at_ms": action.at_ms,
                    "action": action.kind.value,
                    "subject": action.subject[: _INVITE_ID if "invite" in action.kind else None],
                    "note": action.note,
                }
                for action in self._ledger.actions()
            ],
        }

    def _note(self, kind: ActionKind, subject: str, note: str, *, uses: int = 0, days: float = 0.0) -> Action:
        if len(note) > MAX_NOTE or not note.isprintable():
            raise ConfigError(f"the note must be one printable line of at most {MAX_NOTE} characters")
        now = now_ms()
        until_ms = now + int(timedelta(days=days) / timedelta(milliseconds=1)) if days else 0
        return self._ledger.add_action(Action(0, kind, subject, note, now, uses=uses, until_ms=until_ms))

    def _is_complete(self) -> bool:
        return self._ledger.newest_version().images >= self._config.run.total_images

    def _require(self, mode: EnrolmentMode, what: str) -> None:
        if self._mode is not mode:
            raise ConfigError(
                f"this run's enrolment is {self._mode.value!r}, where {what} changes nothing: it is chosen at `init`, "
                f"with --set enrolment.mode='\"{mode.value}\"'"
            )

    def _known(self, worker: str) -> str:
        if worker not in self._workers:
            raise ConfigError(f"{worker!r} never joined this run: give the 16 digits of a worker's id")
        return worker

    def _name(self, worker: str) -> str:
        known = self._workers.get(WorkerId(worker))
        return known.display_name if known else ""


def config_of(folder: RunFolder, ledger: Ledger) -> RunConfig:
    """The run's. Raises `IntegrityError`."""
    return read_spec(BlobStore(folder.blobs, folder.staging), ledger.spec_sha256()).config


@contextmanager
def orders(folder: RunFolder, *, read_only: bool = False) -> Iterator[Orders]:
    """To the run in `folder`; `read_only` is for who asks for their state alone, and keeps nobody waiting.

    Raises `ConfigError`, `IntegrityError`, `StorageError`.
    """
    folder.check()
    ledger = Ledger(folder.ledger, read_only=read_only)
    try:
        yield Orders(folder, ledger)
    finally:
        ledger.close()


def _worker(text: str) -> str:
    if not _WORKER.fullmatch(text):
        raise ConfigError(
            f"{text!r} is no worker's id, which is 16 hexadecimal digits: `dah worker join` says it when it is refused"
        )
    return text
