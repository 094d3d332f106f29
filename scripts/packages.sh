#!/usr/bin/env bash
# Installs those of the named Debian packages that are missing. Does nothing where all are there, or where there is no apt.
set -euo pipefail

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || exit 0

missing=()
for package in "$@"; do
    status="$(dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null || true)"
    [[ "$status" == *" ok installed" ]] || missing+=("$package")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo"
echo "packages: installing ${missing[*]}" >&2
$sudo apt-get update -qq
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
