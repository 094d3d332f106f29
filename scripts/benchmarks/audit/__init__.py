"""Recomputed leases: how far honest results are apart, and which cheats a tolerance for them still catches.

Every lease of a training on digits is computed in each way that an honest machine may (precision, threads, parts of a batch), and
every pair of results is compared as an auditor compares: encoded, decoded, cosine and ratio of lengths. Then a cheat's delta is
compared with an honest one. An accusation is what is outside the doubtful tolerance, or the loose one of who says that it rounds.
"""

from __future__ import annotations

import io
import itertools
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from benchmarks.audit.cheats import cheats, steps_needed
from benchmarks.audit.leases import Bench, Lease, Variant, variants
from benchmarks.figures import Figure
from benchmarks.parity import CONFIG
from benchmarks.parity.task import DigitsTask
from diffusion_at_home.audit.agreement import Agreement, agreement
from diffusion_at_home.audit.tolerances import tolerances
from diffusion_at_home.config.run import Codec, RunConfig
from diffusion_at_home.config.toml import Section, load_toml
from diffusion_at_home.config.values import Count, Positive
from diffusion_at_home.wire.vector import VectorReader, encode_chunks, write_vector

_PREFIX: Final = "audit."
_QUICK: Final = ("leases=1", "passed=1", "steps=[4, 8]")
_SMALL: Final = (
    "model.prx.hidden_size=32",
    "model.prx.depth=1",
    "model.prx.heads=2",
    "model.text.hidden_size=16",
    "model.text.vocab_size=300",
)
"""So that ten thousand comparisons take minutes."""

_KINDS: Final = ("close", "loose", "alike", "apart")
"""Both keep exact weights; one does, as an auditor must, and the other rounds at random; both round, by the same random bits, or
by others."""

_ACCUSED: Final = ("close", "loose")
"""What an auditor may meet."""

_QUANTILES: Final = (0.001, 0.01, 0.5, 0.99, 0.999)


class AuditSection(Section):
    """What may be changed by `--set audit.key=value`; the run itself by `--set section.key=value`."""

    leases: Positive = 30
    """Of the most of `steps`, computed in every way; Ctrl-C ends the benchmark with those that are done."""
    passed: Count = 2
    """Leases between each and the next, which only move the weights on."""
    steps: tuple[Positive, ...] = (4, 6, 8, 10, 12, 16, 20, 24)
    """Inner steps after which a lease may end."""
    codecs: tuple[Codec, ...] = (Codec.FP32, Codec.INT8, Codec.INT4)
    """How deltas travel. What needs error feedback is compared in fp32: residuals are."""


def run(*, quick: bool, overrides: Sequence[str]) -> dict[str, Figure]:
    """See `benchmarks.figures.Benchmark`."""
    own = [text.removeprefix(_PREFIX) for text in overrides if text.startswith(_PREFIX)]
    section = load_toml(None, AuditSection, [*(_QUICK if quick else ()), *own])
    changes = [text for text in overrides if not text.startswith(_PREFIX)]
    config = load_toml(CONFIG, RunConfig, [*_SMALL, *changes])
    threads = torch.get_num_threads()
    try:
        return _measure(config, section)
    finally:
        torch.set_num_threads(threads)


def _measure(config: RunConfig, section: AuditSection) -> dict[str, Figure]:
    bench = Bench(config, DigitsTask.load(config.model.text), sorted(steps_needed(section.steps)))
    honest, caught = Honest(), Caught()
    try:
        for number, lease in enumerate(bench.leases(section.leases, section.passed)):
            _compare(bench, lease, config, section, honest, caught)
            done = f"lease {number + 1} of {section.leases}, {time.process_time():.0f} s of computing"
            print(done, file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("interrupted: the figures are of what is done", file=sys.stderr, flush=True)
    return {**honest.figures(), **caught.figures()}


def _compare(
    bench: Bench, lease: Lease, config: RunConfig, section: AuditSection, honest: Honest, caught: Caught
) -> None:
    ways = variants(config.inner.batch_images)
    results = [bench.train(lease, way) for way in ways]
    for codec, steps in itertools.product(section.codecs, section.steps):
        travelled = [_travelled(codec, deltas[steps]) for deltas in results]
        for one, other in itertools.combinations(range(len(ways)), 2):
            found = agreement([(travelled[one], travelled[other])])
            honest.add(codec, _kind(ways[one], ways[other]), steps, found)
    for name, steps, delta in cheats(bench, lease, results[0], section.steps):
        for codec in section.codecs:
            pair = _travelled(codec, delta), _travelled(codec, results[0][steps])
            caught.add(codec, name, steps, agreement([pair]))


def _kind(one: Variant, other: Variant) -> str:
    """What two ways have in common."""
    if one.rounds_like(other):
        return "alike"
    return ("close", "loose", "apart")[one.stochastic + other.stochastic]


class Honest:
    """Comparisons of honest results with each other."""

    def __init__(self) -> None:
        self._found: dict[tuple[Codec, str, int], list[Agreement]] = defaultdict(list)

    def add(self, codec: Codec, kind: str, steps: int, found: Agreement) -> None:
        """One of a lease of `steps`; for `kind` see `_kind`."""
        self._found[codec, kind, steps].append(found)

    def figures(self) -> dict[str, Figure]:
        """Distributions by codec and kind, and by steps; false accusations."""
        figures: dict[str, Figure] = {}
        codecs = dict.fromkeys(codec for codec, _, _ in self._found)
        for codec, kind in itertools.product(codecs, _KINDS):
            found = self._of(codec, kind)
            allowed = tolerances(codec).doubtful if kind in {"close", "alike"} else tolerances(codec).loose
            figures[f"false_accusations_{codec}_{kind}"] = _share([not allowed.allows(one) for one in found])
            figures |= _distribution(f"{{}}_honest_{codec}_{kind}", found)
            for steps in dict.fromkeys(steps for _, _, steps in self._found):
                figures |= _spread(f"{{}}_honest_{codec}_{kind}_{steps}_steps", self._found[codec, kind, steps])
        for codec in codecs:
            accused = [
                not (tolerances(codec).doubtful if kind == "close" else tolerances(codec).loose).allows(one)
                for kind in _ACCUSED
                for one in self._of(codec, kind)
            ]
            figures[f"false_accusations_{codec}"] = _share(accused)
        return figures

    def _of(self, codec: Codec, kind: str) -> list[Agreement]:
        return [one for (c, k, _), found in self._found.items() if (c, k) == (codec, kind) for one in found]


class Caught:
    """Comparisons of cheats with what their leases give."""

    def __init__(self) -> None:
        self._found: dict[tuple[Codec, str, int], list[Agreement]] = defaultdict(list)

    def add(self, codec: Codec, name: str, steps: int, found: Agreement) -> None:
        """One."""
        self._found[codec, name, steps].append(found)

    def figures(self) -> dict[str, Figure]:
        """Shares that one check catches, by cheat and codec, and by steps."""
        figures: dict[str, Figure] = {}
        for codec, name in dict.fromkeys((codec, name) for codec, name, _ in self._found):
            parts = {steps: found for (c, n, steps), found in self._found.items() if (c, n) == (codec, name)}
            every = [one for found in parts.values() for one in found]
            figures |= _spread(f"{{}}_{name}_{codec}", every)
            for case, found in {"": every, **{f"_{steps}_steps": found for steps, found in parts.items()}}.items():
                allowed = tolerances(codec)
                bounds = {"close": allowed.close, "doubtful": allowed.doubtful, "loose": allowed.loose}
                for bound, tolerance in bounds.items():
                    caught = [not tolerance.allows(one) for one in found]
                    figures[f"caught_{bound}_{name}_{codec}{case}"] = _share(caught)
        return figures


def _distribution(name: str, found: Sequence[Agreement]) -> dict[str, Figure]:
    figures = _spread(name, found)
    for quantile in _QUANTILES:
        for figure, values in list(figures.items()):
            if "_q" not in figure:
                figures[f"{figure}_q{quantile:g}"] = Figure((float(np.quantile(values.values, quantile)),), values.unit)
    return figures


def _spread(name: str, found: Sequence[Agreement]) -> dict[str, Figure]:
    return {
        name.format("cosine"): Figure(tuple(one.cosine for one in found), "cosine"),
        name.format("stretch"): Figure(tuple(_stretch(one) for one in found), "ratio of lengths"),
    }


def _share(are: Sequence[bool]) -> Figure:
    return Figure((sum(are) / len(are),), f"share of {len(are)} comparisons")


def _stretch(found: Agreement) -> float:
    """How much longer the longer one is."""
    return max(found.length_ratio, 1 / found.length_ratio) if found.length_ratio else float("inf")


def _travelled(codec: Codec, delta: Tensor) -> Tensor:
    """`delta` as the other side has it."""
    out = io.BytesIO()
    write_vector(out, codec, len(delta), encode_chunks(codec, delta))
    vector = torch.empty_like(delta)
    VectorReader(memoryview(out.getvalue()), codec, len(delta)).copy_to(vector)
    return vector
