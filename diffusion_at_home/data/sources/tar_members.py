"""The members of a tar that somebody else wrote, one after the other, without extracting or believing any.

Knows plain files, folders, and the two ways in which common writers keep long names (GNU's, and pax headers, which Python's
`tarfile` also writes for times with fractions). Links and devices are passed by. Refuses, as an unreadable tar: a header whose
checksum is wrong, a negative size, sparse files, long names and pax headers over a limit.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

_BLOCK: Final = tarfile.BLOCKSIZE
_MAX_EXTENDED_BYTES: Final = 64 * 2**10
"""Of a long name or a pax header."""
_EXTENDED: Final = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
"""What stands before a member and says more of it."""
_PLAIN: Final = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_WITHOUT_CONTENT: Final = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
)
"""Whatever size they declare."""


class DamagedTar(Exception):
    """From `start` (bytes), where a member's headers begin, this is no tar."""

    def __init__(self, message: str, start: int) -> None:
        super().__init__(f"{message} at byte {start}")
        self.start = start


@dataclass(frozen=True, slots=True)
class Member:
    """One plain file in a tar."""

    name: str
    start: int
    """Where its headers begin (bytes)."""
    data: int
    """Where its content begins (bytes)."""
    size: int
    """Of its content (bytes), as declared."""
    whole: bool
    """Whether the file goes on to where the content should end."""


def read_members(file: BinaryIO, start: int, file_bytes: int) -> Iterator[Member]:
    """The plain files of a tar from the header at `start` on; of their contents nothing is read.

    Args:
        file: the tar; its position is moved.
        start: where a member's headers begin (bytes).
        file_bytes: how long the tar is.

    Raises:
        DamagedTar: a header is no header, or not one that is read here. Where the file ends too early is no error: the last
            member is then not `whole`.
    """
    offset, headers, long_name, pax = start, start, "", dict[str, str]()
    while offset + _BLOCK <= file_bytes:
        info = _header(file, offset, headers)
        if info is None:
            return
        data = offset + _BLOCK
        if info.type in _EXTENDED:
            extended = _extended(file, info, data, headers)
            if info.type == tarfile.GNUTYPE_LONGNAME:
                long_name = _text(extended.partition(b"\0")[0])
            elif info.type != tarfile.GNUTYPE_LONGLINK:
                pax = _pax_records(extended, headers)
            offset = _next(data, info.size)
            continue
        size = _size(info, pax, headers)
        if info.type in _PLAIN:
            name = pax.get("path") or long_name or info.name
            yield Member(_printable(name), headers, data, size, whole=data + size <= file_bytes)
        offset = headers = _next(data, 0 if info.type in _WITHOUT_CONTENT else size)
        long_name, pax = "", {}


def _header(file: BinaryIO, offset: int, start: int) -> tarfile.TarInfo | None:
    """None at the end of the archive."""
    file.seek(offset)
    block = file.read(_BLOCK)
    if not block.strip(b"\0"):
        return None
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except tarfile.HeaderError as error:
        raise DamagedTar(f"{error} in a header", start) from None
    if info.type == tarfile.GNUTYPE_SPARSE:
        raise DamagedTar("a sparse file", start)
    if info.size < 0:
        raise DamagedTar("a negative size", start)
    return info


def _extended(file: BinaryIO, info: tarfile.TarInfo, data: int, start: int) -> bytes:
    if info.size > _MAX_EXTENDED_BYTES:
        raise DamagedTar(f"a header of {info.size} bytes", start)
    file.seek(data)
    return file.read(info.size)


def _pax_records(data: bytes, start: int) -> dict[str, str]:
    """Of lines "<length> <key>=<value>", each length that of the whole line (POSIX.1-2001, pax)."""
    records, position = dict[str, str](), 0
    while position < len(data):
        digits, _, _ = data[position : position + 8].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = data[position + len(digits) + 1 : position + length]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not equals or not record.endswith(b"\n"):
            raise DamagedTar("a damaged pax header", start)
        records[_text(key)] = _text(value)
        position += length
    return records


def _size(info: tarfile.TarInfo, pax: dict[str, str], start: int) -> int:
    if any(key.startswith("GNU.sparse") for key in pax):
        raise DamagedTar("a sparse file", start)
    declared = pax.get("size", str(info.size))
    if not (declared.isascii() and declared.isdigit() and len(declared) < 30):
        raise DamagedTar("a damaged pax header", start)
    return int(declared)


def _next(data: int, size: int) -> int:
    return data + -(-size // _BLOCK) * _BLOCK


def _printable(name: str) -> str:
    return "".join(character if character.isprintable() else "\ufffd" for character in name)


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
