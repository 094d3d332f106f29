#!/usr/bin/env bash
# Makes .venv with everything this project needs, at the versions in constraints.txt. Does nothing when it is up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
if ! command -v "$python" >/dev/null || ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "setup: Python 3.11 or newer is needed; name it with PYTHON=/path/to/python3.11" >&2
    exit 1
fi

# A Debian or Ubuntu without python3-venv cannot make a virtual environment: install it where we may.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo"
    echo "setup: installing python${version}-venv" >&2
    $sudo apt-get update -qq
    $sudo apt-get install -y -qq "python${version}-venv" || $sudo apt-get install -y -qq python3-venv
fi

# Two scripts that start together must not install into one environment at once.
exec 9>.setup.lock
flock 9

stamp="$(cat pyproject.toml constraints.txt scripts/setup.sh | sha256sum | cut -d' ' -f1)"
if [ "$(cat .venv/.stamp 2>/dev/null || true)" = "$stamp" ]; then
    exit 0
fi

echo "setup: making .venv (a few minutes the first time)" >&2
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
echo "$stamp" > .venv/.stamp
