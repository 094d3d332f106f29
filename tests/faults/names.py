"""Processes whose host names the test decides on, as an operator does who changes a DNS record; nothing else is changed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_suffix(".c")


class Names:
    """Where names lead to, at this moment."""

    def __init__(self, folder: Path) -> None:
        """Skips the test where a process cannot be told."""
        compiler = shutil.which("cc")
        if compiler is None or sys.platform != "linux":
            pytest.skip("deciding on a process's host names needs a C compiler on Linux")
        self._hosts, library = folder / "hosts", folder / "names.so"
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, _SOURCE, "-ldl"], check=True)
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": str(library),
            "DAH_HOSTS": str(self._hosts),
            "RES_OPTIONS": "timeout:1 attempts:1",  # whoever else is asked for an IPv6 address does not answer here
        }

    def lead(self, name: str, address: str) -> None:
        """`name` leads to `address` from now on, and no other name anywhere."""
        draft = self._hosts.with_suffix(".tmp")
        draft.write_text(f"{address} {name}\n")
        draft.replace(self._hosts)
