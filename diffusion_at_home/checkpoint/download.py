"""Downloads a checkpoint from a run's address: resumable, bounded, and checked file by file before it is called done."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx2
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from diffusion_at_home.checkpoint.listing import (
    LISTING_PATH,
    MAX_LISTING_BYTES,
    CheckpointListing,
    ListedCheckpoint,
    file_path,
)
from diffusion_at_home.checkpoint.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    CheckpointManifest,
    FileEntry,
    parse_manifest,
)
from diffusion_at_home.checkpoint.verify import check_file, verify
from diffusion_at_home.errors import ConfigError, IntegrityError, Unreachable, storage_errors

_ATTEMPTS: Final = 5
_TIMEOUT_SECONDS: Final = 30.0

Progress = Callable[[int, int], None]
"""Told the bytes that are here and the bytes of the whole checkpoint."""


def list_checkpoints(url: str) -> CheckpointListing:
    """What the run at `url` has published. Raises `Unreachable`, `IntegrityError`."""
    with _client(url) as client:
        data = _small(client, LISTING_PATH, MAX_LISTING_BYTES)
    try:
        return CheckpointListing.model_validate_json(data)
    except ValueError:
        raise IntegrityError(f"{url}{LISTING_PATH} does not list checkpoints: is this a run's address?") from None


def download(url: str, which: str, out: Path, on_progress: Progress) -> CheckpointManifest:
    """Bring the checkpoint `which` ("latest", "best" or a name) of the run at `url` to `out`; returns its manifest.

    What is there already is kept: a whole checkpoint is verified and left alone, a broken-off download goes on.

    Raises:
        ConfigError: there is no such checkpoint, or `out` holds something else.
        Unreachable: nobody answers, or the line drops again and again; what has come stays.
        IntegrityError: naming the file that is not what the manifest says.
        StorageError: the disk is full.
    """
    listed = _choose(list_checkpoints(url), which)
    if (out / MANIFEST_NAME).is_file():
        return _existing(out, listed)
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: choose a new folder with --out")
    part = out.with_name(f"{out.name}.part")
    with _client(url) as client:
        data = _small(client, file_path(listed.name, MANIFEST_NAME), MAX_MANIFEST_BYTES)
        if hashlib.sha256(data).hexdigest() != listed.manifest_sha256:
            raise IntegrityError(f"{MANIFEST_NAME} of {listed.name} does not have the listed sha256: do not use it")
        manifest = parse_manifest(data, f"{url}{file_path(listed.name, MANIFEST_NAME)}")
        with storage_errors(part):
            part.mkdir(parents=True, exist_ok=True)
            have = 0
            for path, entry in manifest.files.items():
                _fetch(client, file_path(manifest.name, path), part / path, entry, _from(have, manifest, on_progress))
                _keep_if_good(part / path, entry, path)
                have += entry.size_bytes
            (part / MANIFEST_NAME).write_bytes(data)
    try:
        verify(part)
    except IntegrityError:
        shutil.rmtree(part)  # of another checkpoint, perhaps: start clean next time
        raise
    with storage_errors(out):
        if out.exists():
            out.rmdir()
        part.rename(out)
    return manifest


def _choose(listing: CheckpointListing, which: str) -> ListedCheckpoint:
    name = {"latest": listing.latest, "best": listing.best}.get(which, which)
    for listed in listing.checkpoints:
        if listed.name == name:
            return listed
    names = ", ".join(listed.name for listed in listing.checkpoints[-5:]) or "none yet"
    raise ConfigError(f"the run {listing.run} has no checkpoint {which!r}; its newest are: {names}")


def _existing(out: Path, listed: ListedCheckpoint) -> CheckpointManifest:
    manifest = verify(out)
    if manifest.name != listed.name:
        raise ConfigError(f"{out} holds {manifest.name}, not {listed.name}: choose a new folder with --out")
    return manifest


@contextmanager
def _client(url: str) -> Iterator[httpx2.Client]:
    try:
        with httpx2.Client(base_url=url, timeout=_TIMEOUT_SECONDS) as client:
            yield client
    except httpx2.TransportError as error:
        raise Unreachable(f"{url} does not answer ({error}): check the address, or try again later") from None
    except httpx2.HTTPStatusError as error:
        raise Unreachable(
            f"{error.request.url} answers {error.response.status_code}: is this a run's address?"
        ) from None
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
        raise ConfigError(f"{url!r} is not an address: it looks like http://host:8400") from None


def _small(client: httpx2.Client, path: str, max_bytes: int) -> bytes:
    """A body that is refused as soon as it exceeds `max_bytes`."""
    data = bytearray()
    with client.stream("GET", path) as response:
        response.raise_for_status()
        for piece in response.iter_bytes():
            data += piece
            if len(data) > max_bytes:
                raise IntegrityError(f"{path} is larger than {max_bytes} bytes: do not trust this address")
    return bytes(data)


def _keep_if_good(file: Path, entry: FileEntry, path: str) -> None:
    try:
        check_file(file, entry, path)
    except IntegrityError:
        file.unlink(missing_ok=True)  # the next attempt must not find it complete
        raise


def _fetch(client: httpx2.Client, path: str, file: Path, entry: FileEntry, on_bytes: Callable[[int], None]) -> None:
    """Append what is missing of `entry` to `file`, over as many connections as it takes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    retrying = Retrying(
        retry=retry_if_exception_type(httpx2.TransportError),
        wait=wait_random_exponential(multiplier=0.2, max=5),
        stop=stop_after_attempt(_ATTEMPTS),
        reraise=True,
    )
    for attempt in retrying:
        with attempt:
            _append(client, path, file, entry.size_bytes, on_bytes)


def _append(client: httpx2.Client, path: str, file: Path, size_bytes: int, on_bytes: Callable[[int], None]) -> None:
    have = file.stat().st_size if file.is_file() else 0
    if have == size_bytes:
        file.touch()
        return
    if have > size_bytes:
        have = 0
    with client.stream("GET", path, headers={"Accept-Encoding": "identity", "Range": f"bytes={have}-"}) as response:
        response.raise_for_status()
        resumed = response.status_code == httpx2.codes.PARTIAL_CONTENT
        have = have if resumed else 0
        with file.open("ab" if resumed else "wb") as target:
            for piece in response.iter_bytes():
                have += len(piece)
                if have > size_bytes:
                    raise IntegrityError(f"{path} is larger than the {size_bytes} bytes of the manifest: do not use it")
                target.write(piece)
                on_bytes(have)


def _from(before: int, manifest: CheckpointManifest, on_progress: Progress) -> Callable[[int], None]:
    total = manifest.size_bytes
    return lambda have: on_progress(before + have, total)
