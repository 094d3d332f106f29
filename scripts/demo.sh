#!/usr/bin/env bash
# Trains a small text-to-image model from random weights: a coordinator and three workers on this machine.
# The first argument may name a config, digits or emoji; the others go to `dah demo`.
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/setup.sh
config=digits
case "${1:-}" in "" | -*) ;; *) config="$1"; shift ;; esac
case "$config $*" in *emoji*) ./scripts/packages.sh fonts-noto-color-emoji unicode-data libfribidi0 ;; esac
exec .venv/bin/dah demo --config "configs/$config.toml" "$@"
