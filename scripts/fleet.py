#!/usr/bin/env python3
"""Try a coordinator out: hundreds of volunteers that speak the whole protocol and train nothing, in this one process.

Give it a run of its own: what the volunteers hand in is noise, and a run does not recover from it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from simulator.fleet import Fleet, FoundRun
from simulator.settings import FleetSettings, describe_keys

from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.errors import DahError

_EXAMPLES = """
examples:
  scripts/fleet.py http://127.0.0.1:8400 --workers 500 --seconds 60
  scripts/fleet.py URL --set life.mean_seconds=120 --set line.up.median=10 --set misbehaviour.hang=0.05

A key that ends in .sigma is the spread of the one before it: the standard deviation of its logarithm.

keys of --config and --set, with their defaults:
"""


def main() -> int:
    """Run the command line."""
    arguments = _parser().parse_args()
    overrides = list(arguments.set)
    if arguments.workers is not None:
        overrides.append(f"workers={arguments.workers}")
    if arguments.seed is not None:
        overrides.append(f"seed={arguments.seed}")
    try:
        fleet = Fleet(FoundRun.at(arguments.url), load_toml(arguments.config, FleetSettings, overrides))
    except DahError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    try:
        asyncio.run(fleet.work(arguments.seconds))
    except KeyboardInterrupt:
        print("stopped; what was seen until then:", file=sys.stderr)
    print(fleet.tally.table())
    if arguments.json:
        print(json.dumps({"workers": fleet.settings.workers, "seed": fleet.settings.seed, **fleet.tally.summary()}))
    return 0


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EXAMPLES + describe_keys(), formatter_class=formatter)
    parser.add_argument("url", metavar="URL", help="the run's address, like http://127.0.0.1:8400")
    parser.add_argument("--workers", type=int, help="volunteers, each with a key and a session of its own")
    parser.add_argument("--seed", type=int, help="of everything that is drawn: the same fleet again")
    parser.add_argument("--seconds", type=float, help="how long; without it until the run is complete or Ctrl-C")
    parser.add_argument("--config", type=Path, help="a TOML file of the keys below")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key; repeatable")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
