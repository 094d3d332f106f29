"""Codecs: size, speed each way and what is lost, of a vector as long as a model, on one thread.

The numbers are Gaussian, in sixteen scales as a model's tensors are: for what codecs do to real deltas see `parity`.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from benchmarks.figures import Figure
from diffusion_at_home.config.run import Codec
from diffusion_at_home.wire.vector import VectorReader, encode_chunks, write_vector

T = TypeVar("T")


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:  # noqa: ARG001 -- nothing to change
    """See `benchmarks.figures.Benchmark`."""
    torch.set_num_threads(1)
    num_elements, repetitions = (10_000_000, 2) if quick else (100_000_000, 5)
    vector = made_up(num_elements)
    figures: dict[str, Figure] = {}
    for codec in Codec:
        data, encoding = _repeated(repetitions, partial(encoded, codec, vector))
        reader = VectorReader(memoryview(data), codec, num_elements)
        back = torch.zeros(num_elements)
        _, adding = _repeated(1, partial(reader.add_to, back))
        error = float((back - vector).square().sum() / vector.square().sum())
        _, adding = _repeated(repetitions, partial(reader.add_to, back))
        print(f"{codec}: {min(encoding):.2f} s, {min(adding):.2f} s", file=sys.stderr, flush=True)
        megabytes = 4 * num_elements / 1e6
        figures[f"bytes_per_parameter_{codec}"] = Figure((len(data) / num_elements,), "B")
        figures[f"encode_{codec}"] = Figure(tuple(megabytes / seconds for seconds in encoding), "MB of fp32/s")
        figures[f"add_{codec}"] = Figure(tuple(megabytes / seconds for seconds in adding), "MB of fp32/s")
        figures[f"squared_error_{codec}"] = Figure((error,), "share of the vector's")
        hundred_million = tuple(seconds * 100_000_000 / num_elements for seconds in encoding)
        figures[f"encode_share_of_lease_{codec}"] = Figure(
            tuple(seconds / 300 for seconds in hundred_million), "of 5 minutes, 100 million parameters"
        )
    return figures


def made_up(num_elements: int) -> Tensor:
    """A vector like a delta's, fp32 (n,)."""
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(num_elements, generator=generator)
    for index, part in enumerate(torch.chunk(vector, 16)):
        part.mul_(1e-3 * 0.7**index)
    return vector


def encoded(codec: Codec, vector: Tensor) -> bytes:
    """`vector` in its container."""
    out = io.BytesIO()
    write_vector(out, codec, len(vector), encode_chunks(codec, vector))
    return out.getvalue()


def _repeated(repetitions: int, work: Callable[[], T]) -> tuple[T, list[float]]:
    seconds = []
    for _ in range(repetitions):
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return result, seconds
