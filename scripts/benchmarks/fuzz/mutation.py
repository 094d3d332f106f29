"""Bytes, JSON and names that were changed at random, by a generator of one's own: the same seed gives the same mutant."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

_EXTREMES: Final = (0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
_DEEP: Final = 3_000
_LONG: Final = 100_000

NAMES: Final = (
    "",
    ".",
    "..",
    "../outside",
    "../../canary",
    "/etc/passwd",
    "a/../../outside",
    "a\\b",
    "a\x00b",
    "\x1b[2Jx",
    "\u202egnp.exe",
    "con",
    "-rf",
    "~root",
    "%s%n",
    "x" * 255,
    "x" * 5_000,
    "é" * 100,
)
"""Of files, as somebody who wants to write elsewhere gives them."""

RAW_JSON: Final = (
    "null",
    "true",
    "0",
    "-0",
    "-1",
    "1.5",
    "2147483648",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "-9223372036854775809",
    "1e308",
    "1e400",
    "-1e400",
    "1e-400",
    "NaN",
    "-Infinity",
    "9" * 4_200,
    "9" * 10_000,
    '""',
    '"\\u0000"',
    '"\\ud800"',
    '"\\u001b[2J"',
    '"' + "a" * _LONG + '"',
    '"' + "f" * 64 + '"',
    '"' + "F" * 64 + '"',
    '"' + "0" * 128 + '"',
    '"' + "f" * 64 + '\\n"',
    '"0"',
    '"NaN"',
    '"2020-01-01T00:00:00Z"',
    "[]",
    "{}",
    "[[]]",
    '{"": ""}',
    "[" * _DEEP + "]" * _DEEP,
    '{"a":' * _DEEP + "1" + "}" * _DEEP,
    "[" + "1," * 20_000 + "1]",
    "[" * _LONG,
    *(json.dumps(name) for name in NAMES),
)
"""Values in place of others, as text: some are none that a library would write."""

_MARK: Final = "dah-fuzz-mark"


def mutate_bytes(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """`data` after one to three changes; `other` is what it may be spliced with."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(_BYTE_CHANGES)(data, other, rng)
    return data


def mutate_json(document: Any, rng: random.Random) -> bytes:
    """The text of `document` after one or two changes in its tree, or some in its text."""
    copy, raw = json.loads(json.dumps(document)), list[str]()
    for _ in range(rng.choice((1, 1, 2))):
        copy = _change_node(copy, raw, rng)
    text = json.dumps(copy, indent=rng.choice((None, 1)))
    for number, value in enumerate(raw):
        text = text.replace(f'"{_MARK}{number}"', value)
    data = text.encode()
    return mutate_bytes(data, data, rng) if rng.random() < 0.1 else data


def mutate_document(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """JSON `data` changed as a tree or as bytes."""
    return mutate_bytes(data, other, rng) if rng.random() < 0.3 else mutate_json(json.loads(data), rng)


def _change_node(document: Any, raw: list[str], rng: random.Random) -> Any:
    places = list(_places(document))
    if not places:
        return _hostile(raw, rng)
    holder, key = rng.choice(places)
    match rng.randrange(8):
        case 0 | 1 | 2 | 3:
            holder[key] = _hostile(raw, rng)
        case 4:
            del holder[key]
        case 5:
            _add(holder, key, rng.choice((_hostile(raw, rng), holder[key])), rng)
        case 6:
            there, place = rng.choice(places)
            if not _within(holder, there[place]) and not _within(there, holder[key]):
                holder[key], there[place] = there[place], holder[key]
        case _:
            holder[key] = _nearly(holder[key], raw, rng)
    return document


def _add(holder: Any, key: Any, value: Any, rng: random.Random) -> None:
    if isinstance(holder, dict):
        holder[rng.choice((*NAMES, f"{key} ", str(key).upper()))] = value
    else:
        holder.extend([value] * rng.choice((1, 1, 40)))


def _nearly(value: Any, raw: list[str], rng: random.Random) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return rng.choice((-value, value + 1, value - 1, value * 2, value / 3, rng.choice(_EXTREMES)))
    if isinstance(value, str) and value:
        start = rng.randrange(len(value))
        return value[:start] + rng.choice(("", "0", "/", ".", "\n", "é", " ", value)) + value[start + 1 :]
    return _hostile(raw, rng)


def _hostile(raw: list[str], rng: random.Random) -> str:
    raw.append(rng.choice(RAW_JSON))
    return f"{_MARK}{len(raw) - 1}"


def _places(node: Any) -> Sequence[tuple[Any, Any]]:
    """Every value in the tree, as what holds it and under which key or index."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    found: list[tuple[Any, Any]] = []
    for key, value in items:
        found.append((node, key))
        found += _places(value)
    return found


def _within(node: Any, tree: Any) -> bool:
    return node is tree or any(_within(node, holder[key]) for holder, key in _places(tree) if holder is tree)


def _flip(data: bytes, _other: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(data: bytes, _other: bytes, rng: random.Random) -> bytes:
    start, length = _span(data, rng)
    run = rng.choice((b"\0" * length, b"\xff" * length, rng.randbytes(length)))
    return data[:start] + run + data[start + length :]


def _cut(data: bytes, _other: bytes, rng: random.Random) -> bytes:
    start, length = _span(data, rng)
    return data[:start] + data[start + length :]


def _truncate(data: bytes, _other: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _double(data: bytes, _other: bytes, rng: random.Random) -> bytes:
    start, length = _span(data, rng)
    return data[: start + length] + data[start:]


def _insert(data: bytes, _other: bytes, rng: random.Random) -> bytes:
    start, _ = _span(data, rng)
    return data[:start] + rng.randbytes(rng.randint(1, 64)) + data[start:]


def _splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(min(len(data), len(other)) + 1)
    return data[:place] + other[place:]


def _number(data: bytes, _other: bytes, rng: random.Random) -> bytes:
    """A length, an offset or a count: an integer that is none of those that belong there."""
    size, code = rng.choice(((1, "B"), (2, "H"), (4, "I"), (8, "Q")))
    if len(data) < size:
        return data
    # The fields of all formats lie in front, and most of them at multiples of their size.
    place = (
        rng.randrange(0, min(len(data), 64) - size + 1, size)
        if rng.random() < 0.7
        else rng.randrange(len(data) - size + 1)
    )
    value = rng.choice(_EXTREMES) % 2 ** (8 * size)
    if rng.random() < 0.3:
        (now,) = struct.unpack(f"<{code}", data[place : place + size])
        value = (now + rng.choice((-1, 1))) % 2 ** (8 * size)
    return data[:place] + struct.pack(rng.choice("<>") + code, value) + data[place + size :]


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    """Where a run begins, and its length: short mostly."""
    start = rng.randrange(len(data) + 1)
    return start, min(len(data) - start, rng.choice((1, 2, 4, 16, 64, 512)))


_BYTE_CHANGES: Final[tuple[Callable[[bytes, bytes, random.Random], bytes], ...]] = (
    _flip,
    _flip,
    _overwrite,
    _cut,
    _truncate,
    _double,
    _insert,
    _splice,
    _number,
    _number,
)
