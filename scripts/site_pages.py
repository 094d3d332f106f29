"""What the site is made of, for mkdocs: README, docs/, and whatever they link to, each where it lies in the repository.

So a link holds in the repository and on the site alike, and no document is written twice.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_REPOSITORY = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"\]\(([^)#:\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The theme's own files, and ours."""
    theme = [file for file in files if file.src_dir is None or Path(file.src_dir) != Path(config.docs_dir)]
    ours = [File(name, str(_REPOSITORY), config.site_dir, config.use_directory_urls) for name in linked()]
    return Files([*theme, *ours])


def linked() -> list[str]:
    """Names below the repository of the documents and of all files that they link to."""
    waiting = [_REPOSITORY / "README.md", *(_REPOSITORY / "docs").glob("*.md")]
    found: set[str] = set()
    while waiting:
        path = waiting.pop().resolve()
        name = path.relative_to(_REPOSITORY).as_posix()
        if name in found or not path.is_file():
            continue  # mkdocs itself reports a link that leads nowhere
        found.add(name)
        if path.suffix == ".md":
            waiting += [path.parent / target for target in _LINK.findall(path.read_text(encoding="utf-8"))]
    return sorted(found)
