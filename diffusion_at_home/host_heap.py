"""The C library's heap: what freed tensors leave there stays with the process until it is asked for."""

from __future__ import annotations

import ctypes


def give_back_heap() -> None:
    """Return what is free on the heap to the system, where the C library can.

    Gradients of a model fill it with pieces of some megabytes; without this a process holds as much again for what comes next.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others give back by themselves
    if trim is not None:
        trim(0)
