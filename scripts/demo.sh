#!/usr/bin/env bash
# Trains a small text-to-image model from random weights: a coordinator and three workers on this machine.
# Arguments go to `dah demo`.
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/setup.sh
case "$*" in *emoji*) ./scripts/packages.sh fonts-noto-color-emoji unicode-data libfribidi0 ;; esac
exec .venv/bin/dah demo "$@"
