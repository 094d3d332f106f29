"""Where processes of `dah` come from, unless a test wants one started anew: forked from one that has imported everything.

They are as much processes of their own, and start in a tenth of the time.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffusion_at_home.cli import main

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(
    ["coordinator.app", "worker.daemon", "diffusion_at_home.model.prx", "tests.integration.forks"]
)


def become_dah(arguments: Sequence[str], *, out: Path, err: Path, environment: Mapping[str, str]) -> None:
    """Run the command in this process, which then ends; what it prints is appended to these files."""
    os.environ.update(environment)
    for path, descriptor in ((out, 1), (err, 2)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv = ["dah", *arguments]
    main()
