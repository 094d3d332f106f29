"""Shards as a worker reads them: pictures in a tar, and latents."""

from __future__ import annotations

import io
import json
import random
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image

from benchmarks.fuzz.mutation import NAMES, mutate_bytes, mutate_json
from benchmarks.fuzz.target import Read, Target
from diffusion_at_home.data.latents import Posterior, SampleText, read_latents, write_latents
from diffusion_at_home.data.manifest import AutoencoderKind, LatentSpace, ShardEntry
from diffusion_at_home.data.shards import Sample, decode_images, read_shard, write_shard
from diffusion_at_home.errors import DataError

_SIDE: Final = 8
_FACTOR: Final = 4
_SPACE: Final = LatentSpace(
    kind=AutoencoderKind.KL,
    autoencoder="a" * 64,
    channels=2,
    factor=_FACTOR,
    scaling_factor=0.2,
    shift_factor=0.0,
)
_SUFFIXES: Final = ("png", "jpg", "webp", "txt", "json", "gif", "py", "tiff", "")
_TYPES: Final = (b"0", b"\0", b"1", b"2", b"3", b"5", b"6", b"7", b"x", b"g", b"L", b"K", b"S", b"V")
_SIZES: Final = (0, 1, 2**16 + 1, 2**26 + 1, 2**33 - 1, -1, -512, -(2**62))
_BOMB_BYTES: Final = 80 * 2**20


def shards(scratch: Path) -> list[Target]:
    """Both formats."""
    Image.init()  # what Pillow would load when it meets such a file
    return [_pictures(scratch), _latents(scratch)]


def _pictures(scratch: Path) -> Target:
    path = scratch / "shard.tar"
    samples = _samples()
    entry = write_shard(path, samples, (_SIDE, _SIDE))
    whole = path.read_bytes()
    other_path = scratch / "other.tar"
    write_shard(other_path, samples[::-1], (_SIDE, _SIDE))
    other = other_path.read_bytes()
    members = _members(whole)

    def mutant(rng: random.Random) -> Read:
        path.write_bytes(mutate_bytes(whole, other, rng) if rng.random() < 0.3 else _tar(members, rng))
        return lambda: _read_pictures(path, entry)

    return Target("shard", 12, mutant, (DataError,))


def _read_pictures(path: Path, entry: ShardEntry) -> None:
    samples = read_shard(path, entry)
    decode_images(samples, entry.size, 3)


def _samples() -> list[Sample]:
    found = []
    for number, suffix in enumerate(("png", "jpg", "webp")):
        buffer = io.BytesIO()
        picture = Image.new("RGB", (_SIDE, _SIDE), (60 * number, 90, 120))
        exif = Image.Exif()
        exif[0x0112] = 1
        picture.save(buffer, format={"jpg": "JPEG"}.get(suffix, suffix.upper()), exif=exif)
        found.append(
            Sample(
                key=f"square-{number}",
                image=buffer.getvalue(),
                suffix=suffix,
                caption=f"square {number}",
                source="drawn for a benchmark",
                license="CC0-1.0",
                author="nobody",
                further_captions=("another one",),
            )
        )
    return found


def _members(whole: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        return [(member.name, _content(tar, member)) for member in tar]


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def _tar(members: list[tuple[str, bytes]], rng: random.Random) -> bytes:
    """The shard with one member changed, whose header has a right checksum all the same."""
    changed = list(members)
    place = rng.randrange(len(changed))
    name, data = changed[place]
    header: dict[str, Any] = {}
    match rng.randrange(8):
        case 0 | 1 | 2:
            data = _damaged(name, data, members, rng)
        case 3:
            name = rng.choice((rng.choice(NAMES) or "x", f"{rng.choice(NAMES)}.png"))
        case 4:
            name = f"{name.partition('.')[0]}.{rng.choice(_SUFFIXES)}"
        case 5:
            header["type"] = rng.choice(_TYPES)
            header["linkname"] = rng.choice(NAMES)
        case 6:
            header["size"] = rng.choice(_SIZES)
        case _:
            changed.insert(rng.randrange(len(changed) + 1), rng.choice(members))
    changed[place] = (name, data) if not header else changed[place]
    blocks = [_member(n, d, header if index == place else {}) for index, (n, d) in enumerate(changed)]
    return b"".join(blocks) + b"\0" * rng.choice((0, 512, 1024, 10_240))


def _damaged(name: str, data: bytes, members: list[tuple[str, bytes]], rng: random.Random) -> bytes:
    if name.endswith(".json"):
        return mutate_json(json.loads(data), rng)
    changed = mutate_bytes(data, rng.choice(members)[1], rng)
    return _with_right_sums(changed) if name.endswith(".png") and rng.random() < 0.5 else changed


def _member(name: str, data: bytes, header: dict[str, Any]) -> bytes:
    """A header of USTAR (POSIX.1-1988), as its fields lie in its 512 bytes, and the data behind it."""
    size = header.get("size", len(data))
    size_field = f"{size:011o}\0".encode() if 0 <= size < 8**11 else b"\x80" + (size % 2**88).to_bytes(11, "big")
    block = bytearray(512)
    for offset, value in (
        (0, name.encode(errors="surrogatepass")[:100]),
        (100, b"0000644\0"),
        (108, b"0000000\0"),
        (116, b"0000000\0"),
        (124, size_field),
        (136, b"00000000000\0"),
        (148, b" " * 8),
        (156, header.get("type", b"0")),
        (157, header.get("linkname", "").encode()[:100]),
        (257, b"ustar\00000"),
    ):
        block[offset : offset + len(value)] = value
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block) + data + b"\0" * (-len(data) % 512)


def _with_right_sums(png: bytes) -> bytes:
    """A PNG whose chunks have the CRC of what is in them: else nothing behind a changed byte is ever looked at."""
    out, place = png[:8], 8
    while place + 12 <= len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        body = png[place + 4 : place + 8 + length]
        out += png[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return out


def _latents(scratch: Path) -> Target:
    path = scratch / "latents.safetensors"
    generator = torch.Generator().manual_seed(0)
    side = _SIDE // _FACTOR
    means = torch.randn(3, _SPACE.channels, side, side, generator=generator)
    texts = [SampleText.of(sample) for sample in _samples()]
    entry = write_latents(path, Posterior(means, means.abs().amax(dim=(2, 3))), texts, (_SIDE, _SIDE))
    whole = path.read_bytes()
    bomb = zlib.compress(b"\n" * _BOMB_BYTES)

    def mutant(rng: random.Random) -> Read:
        path.write_bytes(_changed_latents(whole, bomb, rng))
        return lambda: read_latents(path, entry, _SPACE).posterior([0, 2])

    return Target("latents", 8, mutant, (DataError,))


def _changed_latents(whole: bytes, bomb: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(whole[:8], "little")
    header, body = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    match rng.randrange(4):
        case 0:
            return mutate_bytes(whole, whole[::-1], rng)
        case 1:
            text = mutate_json(header, rng)
            return len(text).to_bytes(8, "little") + text + body
        case 2:
            plain = _texts(header, body)
            lines = plain.split(b"\n")
            place = rng.randrange(len(lines))
            lines[place] = mutate_json(json.loads(lines[place]), rng).replace(b"\n", b" ")
            packed = b"\n".join(lines)
            return _with_texts(header, body, zlib.compress(packed), len(packed) + rng.choice((0, 0, 0, 1)))
        case _:
            declared = rng.choice((0, 100, _BOMB_BYTES, 2**63)) if rng.random() < 0.98 else 2**26
            packed = rng.choice((bomb, bomb[:-1], mutate_bytes(zlib.compress(_texts(header, body)), bomb[:64], rng)))
            return _with_texts(header, body, packed, declared)


def _texts(header: dict[str, Any], body: bytes) -> bytes:
    begin, end = header["texts"]["data_offsets"]
    return zlib.decompress(body[begin:end])


def _with_texts(header: dict[str, Any], body: bytes, packed: bytes, declared: int) -> bytes:
    """The same shard with other texts, behind all the rest."""
    begin, end = header["texts"]["data_offsets"]
    rest = body[:begin] + body[end:]
    shifted: dict[str, dict[str, Any]] = {}
    for name, facts in header.items():
        if name == "__metadata__":
            shifted[name] = {next(iter(facts)): str(declared)}
            continue
        first, last = facts["data_offsets"]
        moved = (end - begin) if first >= end else 0
        shifted[name] = {**facts, "data_offsets": [first - moved, last - moved]}
    shifted["texts"]["shape"] = [len(packed)]
    shifted["texts"]["data_offsets"] = [len(rest), len(rest) + len(packed)]
    text = json.dumps(shifted).encode()
    return len(text).to_bytes(8, "little") + text + rest + packed
