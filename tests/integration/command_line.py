"""`dah` as a person runs it: a process of its own, of which only its output and its exit code are known."""

from __future__ import annotations

import json
import os
import resource
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from tests.integration.forks import become_dah, forks

TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Answer:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The object that --json prints on the last line."""
        assert self.code == 0, self.err
        result = json.loads(self.out.splitlines()[-1])
        assert isinstance(result, dict)
        return result

    def refuses(self, code: int) -> str:
        """The one sentence on standard error of a command that failed with `code`."""
        assert self.code == code, f"exit code {self.code}: {self.err}"
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("dah: ")
        return line.removeprefix("dah: ")


def dah(*arguments: str | Path, cwd: Path | None = None, largest_file: int | None = None) -> Answer:
    """Run `dah` to its end; with `largest_file` no file may grow beyond so many bytes, as on a full disk."""
    with TemporaryDirectory(prefix="dah-") as folder:
        printed = _Printed(Path(folder, "out"), Path(folder, "err"))
        process = forks.Process(
            target=_run, args=(list(map(str, arguments)), printed, dict(os.environ), cwd, largest_file)
        )
        process.start()
        process.join(TIMEOUT_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
        assert process.exitcode is not None
        return Answer(process.exitcode, printed.out.read_text(), printed.err.read_text())


class _Printed(NamedTuple):
    """Where."""

    out: Path
    err: Path


def _run(
    arguments: list[str], printed: _Printed, environment: dict[str, str], cwd: Path | None, largest_file: int | None
) -> None:
    if cwd is not None:
        os.chdir(cwd)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    become_dah(arguments, out=printed.out, err=printed.err, environment=environment)
