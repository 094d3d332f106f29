"""Reading: units of a source become parts, by several processes, in any order; whoever asks gets them in the source's order.

The processes are started anew (`spawn`), load no torch, and end when the build does, also where it was killed. No more units
are under way than keeps them busy, so memory does not grow with the source. Which process reads what changes no byte.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from diffusion_at_home.data.parts import Facts, PartIndex, Ready, is_complete, read_index, write_part
from diffusion_at_home.data.picture import PictureRules, Unusable, prepare
from diffusion_at_home.data.screens import Screens, screen
from diffusion_at_home.data.sources.source import Raw, Reason, Refused, Source
from diffusion_at_home.errors import DataError, HardwareError

_UNITS_A_PROCESS: Final = 3
"""Under way or waiting: one process may take this many times as long for a unit before the others wait for it."""
_MAX_NAME: Final = 300
"""Characters."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Makes parts of units; picklable, so that each process has its own."""

    source: Source
    rules: PictureRules
    screens: Screens
    folder: Path
    """Of the parts."""
    license: str
    """Of pictures for which the source names none."""
    origin: str
    """The same for where they come from."""
    author: str

    def read(self, number: int, unit: str) -> None:
        """Make part `number` of `unit`, unless it is there. What of it cannot be read counts as one refused picture.

        Raises:
            DataError: the operating system failed to read it.
            IntegrityError: it has changed.
            StorageError: the disk is full.
        """
        if not is_complete(self.folder, number):
            write_part(self.folder, number, unit, self._outcomes(unit))

    def _outcomes(self, unit: str) -> Iterator[Ready | Refused]:
        try:
            yield from map(self._outcome, self.source.read(unit))
        except DataError as error:
            if isinstance(error.__context__, OSError) and error.__context__.errno:
                raise  # the disk or the line failed, not the data: another time it may be read
            yield Refused(_name(unit), Reason.UNREADABLE, str(error))

    def _outcome(self, found: Raw | Refused) -> Ready | Refused:
        named = replace(found, name=_name(found.name))
        screened = named if isinstance(named, Refused) else screen(self._completed(named), self.screens)
        if isinstance(screened, Refused):
            return screened
        try:
            prepared = prepare(screened.image, self.rules)
        except Unusable as error:
            return Refused(screened.name, error.reason, error.detail)
        facts = Facts(
            name=screened.name,
            captions=screened.captions,
            source=screened.source,
            license=screened.license,
            author=screened.author,
        )
        return Ready(
            facts=facts,
            image=prepared.image,
            suffix=prepared.suffix,
            size=prepared.size,
            hash=prepared.hash,
            held_out=screened.held_out,
        )

    def _completed(self, raw: Raw) -> Raw:
        """With the defaults where the source says nothing."""
        return replace(
            raw,
            source=raw.source or self.origin,
            license=raw.license.strip() or self.license,
            author=raw.author or self.author,
        )


def _name(name: str) -> str:
    """`name` in printable characters, not too many, and unique as it is: what had to be changed ends in a hash."""
    printable = "".join(c if c.isprintable() else "?" for c in name)[:_MAX_NAME]
    if printable == name:
        return name
    digest = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    return f"{printable[: _MAX_NAME - 17]}#{digest}"


def read_parts(reader: Reader, units: Sequence[str], num_processes: int) -> Generator[PartIndex, None, None]:
    """The parts of all `units`, in order, made where they are not there yet.

    Raises:
        DataError: the operating system failed to read the source, or a part is damaged.
        IntegrityError: the source has changed.
        StorageError: the disk is full.
        HardwareError: a process died. What is complete stays; another build goes on from there.
    """
    num_processes = min(num_processes, sum(not is_complete(reader.folder, number) for number in range(len(units))))
    made = _made_here(reader, units) if num_processes <= 1 else _made_by_processes(reader, units, num_processes)
    with closing(made):
        for number in made:
            yield read_index(reader.folder, number, units[number])


def _made_here(reader: Reader, units: Sequence[str]) -> Generator[int, None, None]:
    for number, unit in enumerate(units):
        reader.read(number, unit)
        yield number


def _made_by_processes(reader: Reader, units: Sequence[str], num_processes: int) -> Generator[int, None, None]:
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that this process's threads hold
    pool = ProcessPoolExecutor(num_processes, mp_context=context, initializer=_begin, initargs=(reader,))
    waiting = deque[tuple[int, Future[None] | None]]()
    try:
        for number, unit in enumerate(units):
            done = is_complete(reader.folder, number)
            waiting.append((number, None if done else pool.submit(_read, number, unit)))
            if len(waiting) >= num_processes * _UNITS_A_PROCESS:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())
    except BrokenProcessPool:
        raise HardwareError(
            f"a process that read pictures has died, perhaps for want of memory: run the same command again, it goes on "
            f"where it was, with processes = {max(1, num_processes // 2)} if that helps"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finished(number: int, future: Future[None] | None) -> int:
    if future is not None:
        future.result()
    return number


_readers: Final = list[Reader]()
"""The one of this process."""


def _begin(reader: Reader) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the build, which ends us
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    _readers.append(reader)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # nobody is there to be told


def _read(number: int, unit: str) -> None:
    _readers[0].read(number, unit)
