#!/usr/bin/env python3
"""Run one benchmark of scripts/benchmarks. With --json the last line is one object with every figure."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import signal
import sys
from typing import cast

import benchmarks
from benchmarks.figures import Benchmark, Figure, machine

from diffusion_at_home.errors import DahError


def main() -> int:
    """Run the command line."""
    names = sorted(info.name for info in pkgutil.iter_modules(benchmarks.__path__) if info.ispkg)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=names, metavar="NAME", help=f"one of: {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="end within two minutes; the figures are no claim")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting; repeatable")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what it has started ends with it
    benchmark = cast("Benchmark", importlib.import_module(f"benchmarks.{arguments.name}"))
    try:
        results = benchmark.run(quick=arguments.quick, overrides=arguments.set)
    except DahError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    _print_table(results)
    if arguments.json:
        summaries = {name: figure.summary() for name, figure in results.items()}
        print(json.dumps({"benchmark": arguments.name, "machine": machine(), "results": summaries}))
    return 0


def _print_table(results: dict[str, Figure]) -> None:
    for name, figure in results.items():
        summary = figure.summary()
        spread = f"{summary['median']:>12.5g}   {summary['min']:.5g} to {summary['max']:.5g}"
        print(f"{name:<44}{spread:<42}{summary['unit']}, n = {summary['n']}")


if __name__ == "__main__":
    raise SystemExit(main())
