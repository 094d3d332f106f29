"""Who has joined: proves keys, opens sessions, knows whose token a call carries."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from coordinator.admission import Rate
from coordinator.batches import Again, Batches
from coordinator.enrolment import MAX_CODE, Enrolment, hash_code
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.records import Worker, now_ms
from coordinator.refused import Refused
from coordinator.standing import Standing
from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.identity import Handed, WorkerId, contribution_is_signed, join_is_signed, worker_id
from diffusion_at_home.kept_weights import from_wire
from diffusion_at_home.lease_terms import LeaseTerms
from diffusion_at_home.rpc.coordinator_pb2 import JoinRequest, Refusal, SubmitHeader
from diffusion_at_home.upgrade import told_by_coordinator

_MAX_NAME: Final = 64
_MAX_DEVICE_NAME: Final = 128
_MAX_VERSION: Final = 32
_DEVICES: Final = frozenset({"cpu", "cuda"})


class Registry:
    """Sessions by the sha256 of their token; the ledger has the same, written first."""

    def __init__(
        self,
        *,
        run_id: str,
        ledger: LedgerThread,
        workers: list[Worker],
        joins: Rate,
        standing: Standing,
        enrolment: Enrolment,
    ) -> None:
        """`joins` is how many are let in a second, `enrolment` who."""
        self.standing = standing
        self._enrolment = enrolment
        self._run_id = run_id
        self._ledger = ledger
        self._joins = joins
        self._workers = {worker.worker_id: worker for worker in workers}
        self._batches = Batches[Worker, None](self._store)
        self._by_token = {worker.token_sha256: worker.worker_id for worker in workers}

    def names(self) -> dict[str, str]:
        """The name to show for each worker that ever joined."""
        return {worker.worker_id: worker.display_name or worker.worker_id for worker in self._workers.values()}

    async def join(self, request: JoinRequest) -> tuple[WorkerId, str]:
        """Open a session; returns the worker and the token, which is stored only as a hash. Raises `Refused`."""
        check_version(request.protocol_version)
        self._joins.enter("many are joining at once")
        _check_fields(request)
        if not join_is_signed(request.public_key, self._run_id, request.signed_at_ms, request.signature):
            raise Refused(Refusal.REFUSAL_BAD_SIGNATURE, "the signature does not prove the public key for this run")
        token = secrets.token_urlsafe(32)
        record = Worker(
            worker_id=worker_id(request.public_key),
            public_key=request.public_key,
            token_sha256=_hash(token),
            signed_at_ms=request.signed_at_ms,
            display_name=request.display_name,
            device=request.hardware.device,
            device_name=request.hardware.device_name,
            num_devices=request.hardware.num_devices,
            memory_bytes=request.hardware.memory_bytes,
            software_version=request.software_version,
            joined_at_ms=now_ms(),
            invite=hash_code(request.invite),
            team=request.team,
        )
        await self._batches.do(record)
        return record.worker_id, token

    async def _store(self, sessions: Sequence[Worker]) -> list[Exception | Again | None]:
        """Open the `sessions` that are newer than what their workers have."""
        opened: dict[WorkerId, Worker] = {}
        outcomes: list[Exception | Again | None] = []
        for session in sessions:
            known = self._workers.get(session.worker_id)
            if session.worker_id in opened:
                outcomes.append(Again.AGAIN)  # the same Join twice at once must not open two sessions
            elif (refused := self._shut_out(session, opened.values())) is not None:
                outcomes.append(refused)
            elif known is not None and session.signed_at_ms <= known.signed_at_ms:
                sentence = (
                    "signed_at_ms is not later than at the last Join of this key: another machine may use it, too"
                )
                outcomes.append(Refused(Refusal.REFUSAL_BAD_SIGNATURE, sentence))
            else:
                opened[session.worker_id] = _continued(session, known)
                outcomes.append(None)
        if opened:
            await self._ledger.run(Ledger.join, *opened.values())
        for worker, session in opened.items():
            if (before := self._workers.get(worker)) is not None:
                self._by_token.pop(before.token_sha256, None)
            else:
                self._enrolment.came(session)
            self._workers[worker] = session
            self._by_token[session.token_sha256] = worker
        return outcomes

    def _shut_out(self, session: Worker, opened: Iterable[Worker]) -> Refused | None:
        """Why it may not join, where others are `opened` with it."""
        try:
            if session.worker_id in self._workers:
                self._enrolment.check_old(session.worker_id, now_ms())
            else:
                coming = sum(other.invite == session.invite for other in opened if other.worker_id not in self._workers)
                self._enrolment.check_new(session.worker_id, session.invite, now_ms(), coming)
        except Refused as refused:
            return refused
        return None

    def revoke(self, worker: WorkerId) -> None:
        """Forget its session."""
        if (known := self._workers.get(worker)) is not None:
            self._by_token.pop(known.token_sha256, None)

    def authenticate(self, metadata: dict[str, str | bytes]) -> WorkerId:
        """Whose token a call has; whether that one may still call, `check_admitted` says. Raises `Refused`."""
        scheme, _, token = str(metadata.get("authorization", "")).partition(" ")
        worker = self._by_token.get(_hash(token)) if scheme == "Bearer" else None
        if worker is None:
            raise Refused(Refusal.REFUSAL_UNKNOWN_SESSION, "this session is not known here: join again")
        return worker

    def check_admitted(self, worker: WorkerId) -> None:
        """Refuse one that the operator has shut out since it joined."""
        self._enrolment.check_old(worker, now_ms())

    def check_signature(self, worker: WorkerId, header: SubmitHeader, terms: LeaseTerms) -> None:
        """Refuse a contribution that `worker` has not signed as trained by the `terms` of its lease."""
        weights = from_wire(header.weights)
        if weights is None:
            raise Refused(Refusal.REFUSAL_MALFORMED, "weights must say how the worker kept its weights")
        handed = Handed(
            run_id=self._run_id,
            lease_id=header.lease_id,
            lease_sha256=terms.sha256,
            weights=weights,
            sha256=header.sha256,
            images=header.images,
            residual_before=header.residual_before.hex(),
            residual_after=header.residual_after.hex(),
        )
        if not contribution_is_signed(self._workers[worker].public_key, handed, header.signature):
            sentence = "the signature is not that of this contribution to this lease by its worker"
            raise Refused(Refusal.REFUSAL_BAD_SIGNATURE, sentence)

    def team(self, worker: WorkerId) -> str:
        """Of which a worker says that it is; empty of none."""
        return self._workers[worker].team

    def num_devices(self, worker: WorkerId) -> int:
        """How many devices a worker says it trains with."""
        return self._workers[worker].num_devices


def check_version(theirs: int) -> None:
    """Refuse a request of another protocol version."""
    if theirs != PROTOCOL_VERSION:
        raise Refused(
            Refusal.REFUSAL_VERSION_MISMATCH,
            f"the worker speaks protocol {theirs} and the coordinator {PROTOCOL_VERSION}: {told_by_coordinator(theirs)}",
        )


def _continued(session: Worker, known: Worker | None) -> Worker:
    """`session` of a worker that may be `known`: what its first Join said of it stays."""
    if known is None:
        return session
    return replace(session, joined_at_ms=known.joined_at_ms, invite=known.invite)


def _check_fields(request: JoinRequest) -> None:
    hardware = request.hardware
    problems = {
        "public_key must have 32 bytes": len(request.public_key) != 32,
        "signature must have 64 bytes": len(request.signature) != 64,
        f"display_name must be printable and at most {_MAX_NAME} characters": not _is_line(
            request.display_name, _MAX_NAME
        ),
        f"team must be printable and at most {_MAX_NAME} characters": not _is_line(request.team, _MAX_NAME),
        "hardware.device must be cpu or cuda": hardware.device not in _DEVICES,
        f"hardware.device_name must be printable and at most {_MAX_DEVICE_NAME} characters": not _is_line(
            hardware.device_name, _MAX_DEVICE_NAME
        ),
        "hardware.num_devices must be 1 to 1024": not 1 <= hardware.num_devices <= 1024,
        "hardware.memory_bytes must be under 2^63": hardware.memory_bytes >= 2**63,
        f"software_version must be printable and at most {_MAX_VERSION} characters": not _is_line(
            request.software_version, _MAX_VERSION
        ),
        # Not compared with our own clock, which may be the wrong one: a worker's next Join only has to be later.
        "signed_at_ms must be under 2^53": request.signed_at_ms >= 2**53,
        f"invite must be at most {MAX_CODE} characters": len(request.invite) > MAX_CODE,
    }
    for sentence, is_problem in problems.items():
        if is_problem:
            raise Refused(Refusal.REFUSAL_MALFORMED, sentence)


def _is_line(text: str, max_length: int) -> bool:
    return len(text) <= max_length and text.isprintable()


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
