"""Downloads a checkpoint from a run's address: resumable, bounded, and checked file by file before it is called done.

Whose word it is, is known before its files are fetched: the signature is over the manifest.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from diffusion_at_home import __version__
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
    SIGNATURE_NAME,
    CheckpointManifest,
    FileEntry,
    parse_manifest,
)
from diffusion_at_home.checkpoint.rounds import check_rounds
from diffusion_at_home.checkpoint.signature import MAX_SIGNATURE_BYTES, Trust, Vouched, check_folder, check_signature
from diffusion_at_home.checkpoint.verify import check_file, verify_files
from diffusion_at_home.errors import ConfigError, IntegrityError, Unreachable, storage_errors
from diffusion_at_home.strangers import FROM_HERE
from diffusion_at_home.tls import pinned_context, split_pin

_ATTEMPTS: Final = 6
"""In a row that bring not one byte."""

_TIMEOUT_SECONDS: Final = 30.0
"""To connect, and for each read."""

_SLOWEST_BYTES_PER_SECOND: Final = 1_000
_SLOW_SECONDS: Final = 60.0
"""A body that is slower than that for so long is asked for anew from where it is."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a downloader wants of a checkpoint's signature."""

    key: str = ""
    """The release key (hex) that must have signed, or whose successor must; empty takes the one that the address names."""
    signature: bool = False
    """Whether it must be signed also where `key` is empty."""

    def trust(self, listing: CheckpointListing) -> Trust:
        """Whose word is taken of a run that lists that."""
        root = self.key or listing.release_key or ""
        return Trust(root, listing.rotations, required=self.signature or bool(self.key))


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What has come."""

    manifest: CheckpointManifest
    vouched: Vouched | None
    """None if it is not signed."""


Progress = Callable[[int, int], None]
"""Told the bytes that are here and the bytes of the whole checkpoint."""


def list_checkpoints(url: str) -> CheckpointListing:
    """What the run at `url` has published. Raises `Unreachable`, `ConfigError` if it is no run's address."""
    with _client(url) as client:
        data = _small(client, LISTING_PATH, MAX_LISTING_BYTES)
    try:
        return CheckpointListing.model_validate_json(data)
    except ValueError:
        raise ConfigError(f"{url} does not list checkpoints: is this a run's address?") from None


def download(url: str, which: str, out: Path, on_progress: Progress, demand: Demand = Demand()) -> Downloaded:
    """Bring the checkpoint `which` ("latest", "best" or a name) of the run at `url` to `out`.

    What is there already is kept: a whole checkpoint is verified and left alone, a broken-off download goes on.

    Raises:
        ConfigError: there is no such checkpoint, or `out` holds something else.
        Unreachable: nobody answers, or the line drops again and again; what has come stays.
        IntegrityError: naming the file that is not what the manifest says.
        SignatureError: it is not signed, or not by whom `demand` says; nothing was fetched then.
        StorageError: the disk is full.
    """
    out = out.resolve()
    listing = list_checkpoints(url)
    listed, trust = _choose(listing, which), demand.trust(listing)
    with _client(url) as client:
        if (out / MANIFEST_NAME).is_file():
            return _existing(client, out, listed, trust)
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise ConfigError(f"{out} is not an empty folder: choose a new one with --out")
        part = out.with_name(f"{out.name}.part")
        data = _small(client, file_path(listed.name, MANIFEST_NAME), MAX_MANIFEST_BYTES)
        manifest = _checked_manifest(data, listed, listing.run_id)
        signature = _signature(client, listed)
        vouched = check_signature(signature, data, trust, f"{SIGNATURE_NAME} of {listed.name}")
        with storage_errors(part):
            _forget_another(part, manifest)
            have = 0
            for path, entry in manifest.files.items():
                on_bytes = _from(have, manifest, on_progress)
                _bring(client, file_path(listed.name, path), part / path, entry, on_bytes)
                have += entry.size_bytes
            if signature is not None:
                (part / SIGNATURE_NAME).write_bytes(signature)
            (part / MANIFEST_NAME).write_bytes(data)
            check_rounds(part, manifest)
    with storage_errors(out):
        if out.exists():
            out.rmdir()
        part.rename(out)
    return Downloaded(manifest, vouched)


def _choose(listing: CheckpointListing, which: str) -> ListedCheckpoint:
    name = {"latest": listing.latest, "best": listing.best}.get(which, which)
    for listed in listing.checkpoints:
        if listed.name == name:
            return listed
    names = ", ".join(listed.name for listed in listing.checkpoints[-5:]) or "none yet"
    raise ConfigError(f"the run {listing.run} has no checkpoint {which!r}; its newest are: {names}")


def _existing(client: httpx2.Client, out: Path, listed: ListedCheckpoint, trust: Trust) -> Downloaded:
    """What is there already, with the signature that it has by now: it may have been signed, or signed anew, since it came."""
    manifest, data = verify_files(out), (out / MANIFEST_NAME).read_bytes()
    if hashlib.sha256(data).hexdigest() != listed.manifest_sha256:
        raise ConfigError(
            f"{out} holds the checkpoint {manifest.name} of {manifest.run_id}, not the {listed.name} that is wanted: "
            "choose a new folder with --out"
        )
    signature = _signature(client, listed)
    if signature is None:
        return Downloaded(manifest, check_folder(out, trust))
    vouched = check_signature(signature, data, trust, f"{SIGNATURE_NAME} of {listed.name}")
    with storage_errors(out):
        temporary = out.with_name(f"{out.name}.{SIGNATURE_NAME}")
        temporary.write_bytes(signature)
        temporary.replace(out / SIGNATURE_NAME)
    return Downloaded(manifest, vouched)


def _signature(client: httpx2.Client, listed: ListedCheckpoint) -> bytes | None:
    if not listed.signed:
        return None
    return _small(client, file_path(listed.name, SIGNATURE_NAME), MAX_SIGNATURE_BYTES)


def _checked_manifest(data: bytes, listed: ListedCheckpoint, run_id: str) -> CheckpointManifest:
    if hashlib.sha256(data).hexdigest() != listed.manifest_sha256:
        raise IntegrityError(f"{MANIFEST_NAME} of {listed.name} does not have the listed sha256: do not use it")
    manifest = parse_manifest(data, f"{MANIFEST_NAME} of {listed.name}")
    if (manifest.name, manifest.run_id) != (listed.name, run_id):
        raise IntegrityError(
            f"what is listed as {listed.name} of {run_id} is {manifest.name} of {manifest.run_id}: do not use it"
        )
    return manifest


def _forget_another(part: Path, manifest: CheckpointManifest) -> None:
    """Make `part` a folder that holds nothing but what `manifest` knows: an earlier download may have been of another."""
    files = {part / path for path in (*manifest.files, SIGNATURE_NAME, MANIFEST_NAME)}
    folders = {parent for file in files for parent in file.parents}
    for found in part.rglob("*"):
        if found.is_symlink() or found not in (folders if found.is_dir() else files):
            shutil.rmtree(part)
            break
    part.mkdir(parents=True, exist_ok=True)


@contextmanager
def _client(url: str) -> Iterator[httpx2.Client]:
    # No compression: what comes is what is hashed, and nothing unpacks to more than it was.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"diffusion-at-home/{__version__}"}
    plain, pin = split_pin(url)
    try:
        if not httpx2.URL(plain).host:
            raise httpx2.InvalidURL("it names no host")
        tls = pinned_context(pin) if pin else True
        # With a pin this client knows one certificate, and a store to which the run may lead on has another.
        asked = FROM_HERE if pin else ""
        with httpx2.Client(
            base_url=plain, timeout=_TIMEOUT_SECONDS, headers=headers, params=asked, follow_redirects=True, verify=tls
        ) as client:
            yield client
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
        raise ConfigError(f"{url!r} is not an address: give one like https://host:8400") from None
    except httpx2.HTTPStatusError as error:
        place, status = error.request.url, error.response.status_code
        if status >= httpx2.codes.INTERNAL_SERVER_ERROR:
            raise Unreachable(f"{place} answers with HTTP {status}: try again later") from None
        raise ConfigError(f"{place} answers with HTTP {status}: is {url} a run's address?") from None
    except httpx2.RequestError as error:
        raise Unreachable(f"{url} does not answer ({error}): check the address, or try again later") from None


def _small(client: httpx2.Client, path: str, max_bytes: int) -> bytes:
    """A body that is refused as soon as it exceeds `max_bytes`."""
    data = bytearray()
    with client.stream("GET", path) as response:
        response.raise_for_status()
        for piece in response.iter_raw():
            data += piece
            if len(data) > max_bytes:
                raise IntegrityError(f"{path} is larger than {max_bytes} bytes: do not trust this address")
    return bytes(data)


def _bring(client: httpx2.Client, path: str, file: Path, entry: FileEntry, on_bytes: Callable[[int], None]) -> None:
    """Make `file` what `entry` says. What an earlier download left is completed, or fetched anew if it was wrong."""
    begun = file.exists()
    try:
        _fetch(client, path, file, entry, on_bytes)
        check_file(file, entry, path)
    except IntegrityError:
        file.unlink(missing_ok=True)  # the next attempt must not find it complete
        if not begun:
            raise
        _bring(client, path, file, entry, on_bytes)


def _fetch(client: httpx2.Client, path: str, file: Path, entry: FileEntry, on_bytes: Callable[[int], None]) -> None:
    """Append what is missing of `entry` to `file`, over as many connections as it takes while they bring something."""
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        before = _size(file)
        try:
            _try_often(client, path, file, entry.size_bytes, on_bytes)
        except httpx2.TransportError:
            if _size(file) <= before:
                raise
        else:
            return


def _try_often(client: httpx2.Client, path: str, file: Path, size_bytes: int, on_bytes: Callable[[int], None]) -> None:
    retrying = Retrying(
        retry=retry_if_exception_type(httpx2.TransportError),
        wait=wait_random_exponential(multiplier=0.2, max=5),
        stop=stop_after_attempt(_ATTEMPTS),
        reraise=True,
    )
    for attempt in retrying:
        with attempt:
            _append(client, path, file, size_bytes, on_bytes)


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _append(client: httpx2.Client, path: str, file: Path, size_bytes: int, on_bytes: Callable[[int], None]) -> None:
    have = _size(file)
    if have == size_bytes:
        file.touch()
        on_bytes(have)
        return
    resume = 0 < have < size_bytes
    with client.stream("GET", path, headers={"Range": f"bytes={have}-"} if resume else {}) as response:
        response.raise_for_status()
        if not resume or response.status_code != httpx2.codes.PARTIAL_CONTENT:
            have = 0
        begun_at, begun = time.monotonic(), have
        with file.open("ab" if have else "wb") as target:
            for piece in response.iter_raw():
                have += len(piece)
                if (seconds := time.monotonic() - begun_at) > _SLOW_SECONDS:
                    if have - begun < _SLOWEST_BYTES_PER_SECOND * seconds:
                        raise httpx2.ReadTimeout("it only drips")
                    begun_at, begun = time.monotonic(), have
                if have > size_bytes:
                    raise IntegrityError(f"{path} is larger than the {size_bytes} bytes of the manifest: do not use it")
                target.write(piece)
                on_bytes(have)


def _from(before: int, manifest: CheckpointManifest, on_progress: Progress) -> Callable[[int], None]:
    total = manifest.size_bytes
    return lambda have: on_progress(before + have, total)
