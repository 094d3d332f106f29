"""The configs that come with the software: `configs/` of a checkout, and of an installation the copy beside it.

A wheel puts them into its environment's `share/diffusion-at-home/configs`; the distribution's list of files says where that is.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Final

_FOLDER: Final = "configs"
_SHARE: Final = ("share", "diffusion-at-home")


def find_config(path: Path) -> Path:
    """`path`; where that is `configs/...` and is not there, the shipped file of that name, if there is one."""
    if path.is_absolute() or path.parts[:1] != (_FOLDER,) or path.exists():
        return path
    checkout = Path(__file__).parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / path).is_file():
        return checkout / path
    return _installed(path) or path


def _installed(path: Path) -> Path | None:
    try:
        files = importlib.metadata.files("diffusion-at-home") or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    wanted = (*_SHARE, *path.parts)
    return next((Path(str(file.locate())).resolve() for file in files if file.parts[-len(wanted) :] == wanted), None)
