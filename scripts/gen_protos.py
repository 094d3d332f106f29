#!/usr/bin/env python3
"""Regenerate diffusion_at_home/rpc from proto/. With --check, change nothing and fail if it would."""

from __future__ import annotations

import argparse
import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("diffusion_at_home/rpc")


def generate(out: Path) -> None:
    """Compile every .proto into `out`/diffusion_at_home/rpc.

    The virtual path -I<package>=proto makes the generated imports absolute and keeps our file names out of the global
    descriptor pool's root, where hivemind puts its own.
    """
    sources = [str(PACKAGE / path.name) for path in sorted((ROOT / "proto").glob("*.proto"))]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PACKAGE}={ROOT / 'proto'}"]
    command += [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run([*command, *sources], check=True, cwd=ROOT)


def drifted() -> list[str]:
    """Names of generated files that differ from what is checked in."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / PACKAGE
        names = {path.name for path in fresh.iterdir()} | {path.name for path in (ROOT / PACKAGE).glob("*_pb2*")}
        return sorted(name for name in names if not _same(fresh / name, ROOT / PACKAGE / name))


def _same(left: Path, right: Path) -> bool:
    return left.is_file() and right.is_file() and filecmp.cmp(left, right, shallow=False)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if the checked-in code is out of date"
    )
    if not parser.parse_args().check:
        generate(ROOT)
        return 0
    names = drifted()
    for name in names:
        print(f"{PACKAGE / name} differs from proto/: run scripts/gen_protos.py", file=sys.stderr)
    return 1 if names else 0


if __name__ == "__main__":
    raise SystemExit(main())
