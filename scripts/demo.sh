#!/usr/bin/env bash
# Trains a small text-to-image model from random weights: a coordinator and three workers on this machine.
# Arguments go to `dah demo`.
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/setup.sh
exec .venv/bin/dah demo "$@"
