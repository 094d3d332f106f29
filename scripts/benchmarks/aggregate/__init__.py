"""Aggregation of 8 encoded deltas: the mean beside what memory can do, other rules beside the mean, and sketches.

`bandwidth` is of torch's own fp32 addition, two vectors read and one written. A dense mean reads each delta once and its
sum stays in the cache, so its rate is the fp32 bytes of the deltas by the time. All in one run, on one thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from benchmarks.codec import encoded, made_up
from benchmarks.figures import Figure
from coordinator.sketch import Sketcher
from diffusion_at_home.config.run import Codec
from diffusion_at_home.outer.aggregation import Aggregate, TrimmedMean, Weighed, WeightedMean
from diffusion_at_home.wire.vector import VectorReader

_DELTAS = 8
_KEPT = {Codec.SPARSE: 67 / 4096, Codec.SPARSE_WIDE: 512 / 4096}


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:  # noqa: ARG001 -- nothing to change
    """See `benchmarks.figures.Benchmark`."""
    torch.set_num_threads(1)
    num_elements, repetitions = (10_000_000, 2) if quick else (40_000_000, 7)
    vector = made_up(num_elements)
    other, result = vector.clone(), torch.empty_like(vector)
    bandwidth = [12 * num_elements / s / 1e9 for s in _times(repetitions, lambda: torch.add(vector, other, out=result))]
    sketcher = Sketcher(0)
    figures = {"bandwidth": Figure(tuple(bandwidth), "GB/s")}
    for codec in Codec:
        data = encoded(codec, vector)
        readers = [VectorReader(memoryview(data), codec, num_elements) for _ in range(_DELTAS)]
        given = [Weighed(delta, float(index + 1)) for index, delta in enumerate(readers)]
        seconds = _times(repetitions, partial(_whole, WeightedMean(given)))
        rates = tuple(4 * _DELTAS * num_elements / s / 1e9 for s in seconds)
        print(f"{codec}: {max(rates):.2f} GB/s", file=sys.stderr, flush=True)
        figures[f"aggregate_{codec}"] = Figure(rates, "GB of fp32/s")
        figures[f"ratio_bandwidth_{codec}"] = Figure(tuple(rate / max(bandwidth) for rate in rates), "1")
        if codec in _KEPT:
            entries = _KEPT[codec] * _DELTAS * num_elements
            figures[f"entries_{codec}"] = Figure(tuple(entries / s / 1e6 for s in seconds), "million/s")
        trimmed = _times(repetitions, partial(_whole, TrimmedMean(given, 2)))
        figures[f"ratio_trimmed_mean_{codec}"] = Figure(tuple(s / min(seconds) for s in trimmed), "1")
        sketched = _times(repetitions, partial(sketcher.sketch, readers[0]))
        figures[f"sketch_{codec}"] = Figure(tuple(1e9 * s / num_elements for s in sketched), "ns/parameter")
    return figures


def _whole(aggregate: Aggregate) -> None:
    for index in range(len(aggregate)):
        aggregate.chunk(index)


def _times(repetitions: int, work: Callable[[], object]) -> list[float]:
    seconds = []
    for _ in range(repetitions):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return seconds
