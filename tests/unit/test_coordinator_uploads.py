"""Uploads grow chunk by chunk, never past their size, and resume at any byte."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from coordinator.admission import Places
from coordinator.records import LeaseId
from coordinator.refused import Refused
from coordinator.uploads import Uploads
from diffusion_at_home.clock import SystemClock
from diffusion_at_home.errors import StorageError
from diffusion_at_home.rpc.coordinator_pb2 import Refusal, SubmitHeader, SubmitRequest

SHA = "a" * 64
LEASE = LeaseId(7)


MOST = 4


@pytest.fixture
def disk() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as disk:
        yield disk


@pytest.fixture
def uploads(tmp_path: Path, disk: ThreadPoolExecutor) -> Uploads:
    return Uploads(tmp_path, places=Places(MOST, SystemClock(), random.Random(0)), disk=disk)


def header(size_bytes: int, offset: int = 0, lease_id: int = LEASE, sha256: str = SHA) -> SubmitHeader:
    return SubmitHeader(lease_id=lease_id, sha256=sha256, size_bytes=size_bytes, offset=offset)


async def parts(*chunks: bytes) -> AsyncIterator[SubmitRequest]:
    for chunk in chunks:
        yield SubmitRequest(chunk=chunk)


def received(uploads: Uploads, announced: SubmitHeader, *chunks: bytes) -> bytes:
    async def receive() -> bytes:
        async with uploads.receive(announced, parts(*chunks), max_chunk_bytes=8) as path:
            return path.read_bytes()

    return asyncio.run(receive())


def refusal(uploads: Uploads, announced: SubmitHeader, *chunks: bytes) -> Refusal:
    with pytest.raises(Refused) as refused:
        received(uploads, announced, *chunks)
    return refused.value.refusal


def test_chunks_make_the_file(uploads: Uploads) -> None:
    assert received(uploads, header(6), b"abc", b"def") == b"abcdef"


def test_stream_that_broke_off_goes_on_from_its_offset(uploads: Uploads) -> None:
    assert refusal(uploads, header(6), b"abc") == Refusal.REFUSAL_WRONG_OFFSET
    assert uploads.received_bytes(LEASE, SHA) == 3
    assert received(uploads, header(6, offset=3), b"def") == b"abcdef"


def test_whole_upload_may_be_announced_again_without_a_chunk(uploads: Uploads) -> None:
    received(uploads, header(3), b"abc")
    assert received(uploads, header(3, offset=3)) == b"abc"


@pytest.mark.parametrize("offset", [0, 2, 4])
def test_offset_must_be_where_the_last_chunk_ended(uploads: Uploads, offset: int) -> None:
    refusal(uploads, header(6), b"abc")
    assert refusal(uploads, header(6, offset), b"def") == Refusal.REFUSAL_WRONG_OFFSET
    assert uploads.received_bytes(LEASE, SHA) == 3


def test_nothing_past_the_announced_size_is_written(uploads: Uploads) -> None:
    assert refusal(uploads, header(4), b"abc", b"def") == Refusal.REFUSAL_WRONG_SIZE
    assert uploads.received_bytes(LEASE, SHA) == 3


@pytest.mark.parametrize("chunk", [b"", b"123456789"])
def test_chunk_is_neither_empty_nor_too_large(uploads: Uploads, chunk: bytes) -> None:
    assert refusal(uploads, header(20), chunk) == Refusal.REFUSAL_MALFORMED


def test_other_bytes_for_the_same_lease_start_anew(uploads: Uploads, tmp_path: Path) -> None:
    refusal(uploads, header(6), b"abc")
    assert received(uploads, header(2, sha256="b" * 64), b"xy") == b"xy"
    assert len(list(tmp_path.iterdir())) == 1


def test_second_stream_of_a_lease_is_told_to_come_back_until_the_first_has_its_receipt(uploads: Uploads) -> None:
    async def twice() -> Refusal:
        async with uploads.receive(header(3), parts(b"abc")):
            with pytest.raises(Refused) as refused:
                async with uploads.receive(header(3, offset=3), parts()):
                    pass
        async with uploads.receive(header(3, offset=3), parts()):
            return refused.value.refusal

    assert asyncio.run(twice()) == Refusal.REFUSAL_BUSY


def test_streams_at_once_are_limited(uploads: Uploads) -> None:
    async def crowd() -> Refusal:
        gate = asyncio.Event()

        async def waiting() -> AsyncIterator[SubmitRequest]:
            await gate.wait()
            yield SubmitRequest(chunk=b"a")

        async def one(lease_id: int) -> None:
            async with uploads.receive(header(1, lease_id=lease_id), waiting()):
                pass

        tasks = [asyncio.create_task(one(lease_id)) for lease_id in range(1, MOST + 1)]
        await asyncio.sleep(0)
        with pytest.raises(Refused) as refused:
            await one(MOST + 1)
        gate.set()
        await asyncio.gather(*tasks)
        return refused.value.refusal

    assert asyncio.run(crowd()) == Refusal.REFUSAL_BUSY


def test_uploads_of_leases_that_cannot_count_are_deleted(uploads: Uploads) -> None:
    for lease_id in (1, 2, 12):
        refusal(uploads, header(6, lease_id=lease_id), b"abc")
    uploads.forget_all_but({LeaseId(2)})
    assert [uploads.received_bytes(LeaseId(lease_id), SHA) for lease_id in (1, 2, 12)] == [0, 3, 0]


def test_upload_that_is_being_written_is_never_deleted(uploads: Uploads) -> None:
    async def tidied_meanwhile() -> bytes:
        async with uploads.receive(header(3), parts(b"abc")) as path:
            uploads.forget_all_but(set())
            return path.read_bytes()

    assert asyncio.run(tidied_meanwhile()) == b"abc"


def test_full_disk_is_a_storage_error(uploads: Uploads, tmp_path: Path) -> None:
    (tmp_path / f"upload-7-{SHA}.part").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="free some space"):
        received(uploads, header(3), b"abc")


def test_stream_that_trickles_is_cut_and_its_place_goes_to_others(tmp_path: Path, disk: ThreadPoolExecutor) -> None:
    places = Places(1, SystemClock(), random.Random(0))
    uploads = Uploads(tmp_path, places=places, disk=disk, longest_silence=timedelta(seconds=0.05))

    async def silent() -> AsyncIterator[SubmitRequest]:
        yield SubmitRequest(chunk=b"abc")
        await asyncio.Event().wait()

    async def trickle() -> Refusal:
        with pytest.raises(Refused, match="slower") as refused:
            async with uploads.receive(header(6), silent()):
                pass
        async with uploads.receive(header(1, lease_id=8), parts(b"x")):
            return refused.value.refusal

    assert asyncio.run(trickle()) == Refusal.REFUSAL_WRONG_OFFSET
    assert uploads.received_bytes(LEASE, SHA) == 3


def test_caller_that_hangs_up_waits_for_the_chunk_that_is_being_written(tmp_path: Path) -> None:
    class Slow(ThreadPoolExecutor):
        """Begins only when it is told to."""

        def __init__(self) -> None:
            super().__init__(1)
            self.go = threading.Event()
            super().submit(self.go.wait, 60)

    async def hang_up(disk: Slow) -> None:
        uploads = Uploads(tmp_path, places=Places(1, SystemClock(), random.Random(0)), disk=disk)

        async def receive() -> None:
            async with uploads.receive(header(6), parts(b"abc", b"def")):
                pass

        receiving = asyncio.create_task(receive())
        await asyncio.sleep(0.05)
        receiving.cancel()
        await asyncio.sleep(0.05)
        with pytest.raises(Refused, match="another stream"):  # nobody else may write yet
            await receive()
        disk.go.set()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        assert uploads.received_bytes(LEASE, SHA) == 3

    with Slow() as disk:
        asyncio.run(hang_up(disk))
