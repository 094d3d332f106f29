#!/usr/bin/env bash
# Format, lint, types, proto drift, tests: what CI runs and what a person runs. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/setup.sh
bin=.venv/bin
$bin/ruff format --check .
$bin/ruff check .
$bin/mypy
$bin/python scripts/gen_protos.py --check
$bin/pytest --quiet "$@"
