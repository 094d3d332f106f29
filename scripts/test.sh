#!/usr/bin/env bash
# Format, lint, types, proto drift, tests: what CI runs and what a person runs. Arguments go to pytest.
# Four processes on two cores, for tests of several processes mostly wait, and those first, in the order of collection; -n 0 for one.
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/setup.sh
./scripts/packages.sh fonts-noto-color-emoji unicode-data libfribidi0 postgresql
unset PYTHONDONTWRITEBYTECODE  # hundreds of processes are started: each would compile this project anew
bin=.venv/bin
$bin/ruff format --check .
$bin/ruff check .
$bin/mypy
MYPYPATH=scripts $bin/mypy scripts/bench.py scripts/fleet.py scripts/benchmarks
$bin/python scripts/gen_protos.py --check
$bin/pytest --quiet --numprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
