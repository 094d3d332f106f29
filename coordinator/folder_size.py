"""How much lies in a run's folder, and where: one walk, in which a file with several names counts once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Measured:
    """One walk through a run's folder. A file with several names counts once."""

    total_bytes: int
    sizes: dict[Path, int]
    num_names: dict[Path, int]
    """How many names the file has within the folder or elsewhere."""


def measure(root: Path) -> Measured:
    """Walk through `root`. Files that go meanwhile are not there."""
    sizes: dict[Path, int] = {}
    num_names: dict[Path, int] = {}
    seen: set[tuple[int, int]] = set()
    total = 0
    for entry in _files(root):
        try:
            stat = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        path = Path(entry.path)
        sizes[path], num_names[path] = stat.st_size, stat.st_nlink
        if (stat.st_dev, stat.st_ino) not in seen:
            seen.add((stat.st_dev, stat.st_ino))
            total += stat.st_size
    return Measured(total, sizes, num_names)


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except FileNotFoundError:
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        else:
            yield entry


def own(found: Measured, path: Path) -> int:
    """What deleting `path` frees."""
    return found.sizes.get(path, 0) if found.num_names.get(path) == 1 else 0


def below(found: Measured, folder: Path) -> dict[str, int]:
    """Bytes by name, of what lies in `folder`."""
    sizes: Counter[str] = Counter()
    for path, size in found.sizes.items():
        if folder in path.parents:
            sizes[path.relative_to(folder).parts[0]] += size
    return dict(sizes)
