"""Who may take part: what the operator's actions come to, and the config's rule for who is new.

Pure but for what it remembers. A worker that was let in once needs no invitation again; one that is taken off the list, or
banned, is out from that moment on.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from coordinator.records import Action, ActionKind, Worker
from coordinator.refused import Refused
from diffusion_at_home.config.trust import EnrolmentMode
from diffusion_at_home.identity import WorkerId
from diffusion_at_home.rpc.coordinator_pb2 import Refusal

MAX_CODE: Final = 128
"""Characters of an invitation."""


class Enrolment:
    """Of one run. Times are milliseconds since 1970."""

    def __init__(self, rule: EnrolmentMode, workers: Iterable[Worker] = (), actions: Iterable[Action] = ()) -> None:
        """`workers` are all who ever joined, `actions` all that the operator did."""
        self._rule = rule
        self._invites: dict[str, Action] = {}
        self._used: Counter[str] = Counter()
        self._listed: set[str] = set()
        self._bans: dict[str, Action] = {}
        for worker in workers:
            self.came(worker)
        for action in actions:
            self.hear(action)

    def hear(self, action: Action) -> None:
        """The operator has done something; in the order of numbers."""
        subject = action.subject
        match action.kind:
            case ActionKind.INVITE:
                self._invites[subject] = action
            case ActionKind.UNINVITE:
                self._invites.pop(subject, None)
            case ActionKind.ALLOW:
                self._listed.add(subject)
            case ActionKind.DISALLOW:
                self._listed.discard(subject)
            case ActionKind.BAN:
                self._bans[subject] = action
            case ActionKind.UNBAN:
                self._bans.pop(subject, None)
            case ActionKind.REVOKE:
                pass

    def came(self, worker: Worker) -> None:
        """A worker that is new has been let in."""
        self._used[worker.invite] += 1

    def left_of(self, invite: str) -> int:
        """How many more workers may come with an invitation, whether or not its time is over."""
        action = self._invites.get(invite)
        return max(0, action.uses - self._used[invite]) if action else 0

    def check_new(self, worker: WorkerId, invite: str, now_ms: int, coming: int = 0) -> None:
        """Whether `worker`, which never joined, may; `invite` is the hash of the code it has. Raises `Refused`.

        `coming` are those who are being let in with the same one.
        """
        self.check_old(worker, now_ms)
        if self._rule is not EnrolmentMode.INVITE:
            return
        action = self._invites.get(invite)
        if action is None:
            sentence = "this run is by invitation" if not invite else "this invitation is not known here"
            raise Refused(Refusal.REFUSAL_NOT_INVITED, f"{sentence}: ask its operator for an address with a code")
        if action.until_ms and now_ms >= action.until_ms:
            raise Refused(Refusal.REFUSAL_NOT_INVITED, "this invitation has run out: ask the operator for another")
        if self.left_of(invite) <= coming:
            raise Refused(
                Refusal.REFUSAL_NOT_INVITED, "this invitation has been used by as many as it is for: ask for another"
            )

    def check_old(self, worker: WorkerId, now_ms: int) -> None:
        """Whether `worker`, which has joined before, may go on. Raises `Refused`."""
        if (ban := self.ban_of(worker, now_ms)) is not None:
            raise Refused(Refusal.REFUSAL_BANNED, _banned(ban))
        if self._rule is EnrolmentMode.ALLOW_LIST and worker not in self._listed:
            raise Refused(
                Refusal.REFUSAL_NOT_INVITED,
                f"this run takes only workers that its operator has listed: send this id, {worker}, to the operator",
            )

    def ban_of(self, worker: WorkerId, now_ms: int) -> Action | None:
        """The ban that holds for `worker` now."""
        ban = self._bans.get(worker)
        return ban if ban is not None and not (ban.until_ms and now_ms >= ban.until_ms) else None

    def invites(self) -> list[Action]:
        """Those that were not taken back."""
        return list(self._invites.values())

    def listed(self) -> list[str]:
        """The workers on the list."""
        return sorted(self._listed)

    def bans(self, now_ms: int) -> list[Action]:
        """Those that hold."""
        return [ban for worker in self._bans if (ban := self.ban_of(WorkerId(worker), now_ms)) is not None]


def hash_code(code: str) -> str:
    """What is kept of an invitation's code; of none, nothing."""
    return hashlib.sha256(code.encode()).hexdigest() if code else ""


def _banned(ban: Action) -> str:
    until = f" until {datetime.fromtimestamp(ban.until_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC" if ban.until_ms else ""
    says = f": {ban.note}" if ban.note else ""
    return f"the run's operator has banned this worker{until}{says}"
