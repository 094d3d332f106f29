"""Who has joined: proves keys, opens sessions, knows whose token a call carries."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from typing import Final

from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.records import Worker, now_ms
from coordinator.refused import Refused
from diffusion_at_home import PROTOCOL_VERSION
from diffusion_at_home.identity import WorkerId, join_is_signed, worker_id
from diffusion_at_home.rpc.coordinator_pb2 import JoinRequest, Refusal

_MAX_NAME: Final = 64
_MAX_DEVICE_NAME: Final = 128
_MAX_VERSION: Final = 32
_DEVICES: Final = frozenset({"cpu", "cuda"})


class Registry:
    """Sessions by the sha256 of their token; the ledger has the same."""

    def __init__(self, *, run_id: str, ledger: LedgerThread, workers: list[Worker]) -> None:
        self._run_id = run_id
        self._ledger = ledger
        self._workers = {worker.worker_id: worker for worker in workers}
        self._lock = asyncio.Lock()
        self._by_token = {worker.token_sha256: worker.worker_id for worker in workers}

    def names(self) -> dict[str, str]:
        """The name to show for each worker that ever joined."""
        return {worker.worker_id: worker.display_name or worker.worker_id for worker in self._workers.values()}

    async def join(self, request: JoinRequest) -> tuple[WorkerId, str]:
        """Open a session; returns the worker and the token, which is stored only as a hash. Raises `Refused`."""
        check_version(request.protocol_version)
        _check_fields(request)
        async with self._lock:  # the same Join twice at once must not open two sessions
            return await self._join(request)

    async def _join(self, request: JoinRequest) -> tuple[WorkerId, str]:
        worker = worker_id(request.public_key)
        known = self._workers.get(worker)
        if not join_is_signed(request.public_key, self._run_id, request.signed_at_ms, request.signature):
            raise Refused(Refusal.REFUSAL_BAD_SIGNATURE, "the signature does not prove the public key for this run")
        if known is not None and request.signed_at_ms <= known.signed_at_ms:
            raise Refused(
                Refusal.REFUSAL_BAD_SIGNATURE,
                "signed_at_ms is not later than at the last Join of this key: another machine may use it, too",
            )
        token = secrets.token_urlsafe(32)
        record = Worker(
            worker_id=worker,
            public_key=request.public_key,
            token_sha256=_hash(token),
            signed_at_ms=request.signed_at_ms,
            display_name=request.display_name,
            device=request.hardware.device,
            device_name=request.hardware.device_name,
            num_devices=request.hardware.num_devices,
            memory_bytes=request.hardware.memory_bytes,
            software_version=request.software_version,
            joined_at_ms=known.joined_at_ms if known else now_ms(),
        )
        await self._ledger.run(Ledger.join, record)
        if known is not None:
            self._by_token.pop(known.token_sha256, None)
        self._workers[worker] = record
        self._by_token[record.token_sha256] = worker
        return worker, token

    def authenticate(self, metadata: dict[str, str | bytes]) -> WorkerId:
        """Whose call this is. Raises `Refused`."""
        scheme, _, token = str(metadata.get("authorization", "")).partition(" ")
        worker = self._by_token.get(_hash(token)) if scheme == "Bearer" else None
        if worker is None:
            raise Refused(Refusal.REFUSAL_UNKNOWN_SESSION, "this session is not known here: join again")
        return worker

    def num_devices(self, worker: WorkerId) -> int:
        """How many devices a worker says it trains with."""
        return self._workers[worker].num_devices


def check_version(theirs: int) -> None:
    """Refuse a request of another protocol version."""
    if theirs != PROTOCOL_VERSION:
        older = "the worker" if theirs < PROTOCOL_VERSION else "the coordinator"
        raise Refused(
            Refusal.REFUSAL_VERSION_MISMATCH,
            f"the worker speaks protocol {theirs} and the coordinator {PROTOCOL_VERSION}: upgrade {older}",
        )


def _check_fields(request: JoinRequest) -> None:
    hardware = request.hardware
    problems = {
        "public_key must have 32 bytes": len(request.public_key) != 32,
        "signature must have 64 bytes": len(request.signature) != 64,
        f"display_name must be printable and at most {_MAX_NAME} characters": not _is_line(
            request.display_name, _MAX_NAME
        ),
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
    }
    for sentence, is_problem in problems.items():
        if is_problem:
            raise Refused(Refusal.REFUSAL_MALFORMED, sentence)


def _is_line(text: str, max_length: int) -> bool:
    return len(text) <= max_length and text.isprintable()


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
