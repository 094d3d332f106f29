"""Work on the chunks of a vector on all cores that torch may use, with the results in order.

Chunks are independent, and numpy and torch let go of the interpreter while they compute. That pays where operations are long, as
in encoding and hashing; adding a decoded chunk is over before another thread has taken over. Each thread computes alone:
torch's own threads, which split a single operation, gain nothing at a chunk's size.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Final, TypeVar

import torch

T = TypeVar("T")

_AHEAD: Final = 2
"""Chunks a thread that may be done or under way before the caller takes the first of them."""

_creating: Final = threading.Lock()


def in_order(work: Callable[[int], T], count: int) -> Iterator[T]:
    """Yield work(0), ..., work(count - 1). What `work` raises ends it; when it ends, no thread works on any more."""
    num_threads = torch.get_num_threads()
    if num_threads == 1 or count == 1:
        yield from map(work, range(count))
        return
    pool = _pool(num_threads)
    under_way: deque[Future[T]] = deque()
    try:
        for index in range(count):
            under_way.append(pool.submit(work, index))
            if len(under_way) > _AHEAD * num_threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        for future in under_way:
            if not future.cancel():
                future.exception()  # waits for it


def _pool(num_threads: int) -> ThreadPoolExecutor:
    with _creating:
        return _create(num_threads)


@cache
def _create(num_threads: int) -> ThreadPoolExecutor:
    """The process's pool of that size; a process that changes what torch may have gets another."""
    all_there = threading.Barrier(num_threads)
    pool = ThreadPoolExecutor(num_threads, "chunks", initializer=lambda: torch.set_num_threads(1))
    list(pool.map(lambda _: all_there.wait(), range(num_threads)))
    torch.set_num_threads(num_threads)  # what a thread sets for itself is also the default of later ones
    return pool
