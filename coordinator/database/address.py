"""Where a ledger is that a PostgreSQL server has: one line in a file of the run's folder, which only its owner may read.

Not in the run's config, which every worker is told: the address may hold a password.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa

from coordinator.secret_file import write_secret
from diffusion_at_home.errors import ConfigError

SUFFIX: Final = ".url"
"""Of the file."""

_FORM: Final = "postgresql://USER@HOST/DATABASE"
_NAMES: Final = ("postgresql", "postgres")


def parse_address(text: str) -> sa.URL:
    """Of a PostgreSQL database, as `psql` takes it too. Raises `ConfigError`, which does not repeat it."""
    try:
        url = sa.make_url(text.strip())
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigError(f"the ledger's address cannot be read: it must be {_FORM}") from None
    if url.drivername not in _NAMES:
        raise ConfigError(f"the ledger's address begins with {url.drivername!r}: it must be {_FORM}")
    if not url.database:
        raise ConfigError(f"the ledger's address names no database: it must be {_FORM}")
    return url.set(drivername="postgresql+psycopg")


def read_address(path: Path) -> sa.URL:
    """What the file `path` holds. Raises `ConfigError`."""
    try:
        return parse_address(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({type(error).__name__}): it must hold {_FORM}") from None


def write_address(path: Path, url: sa.URL) -> None:
    """Keep it. Raises `StorageError`."""
    plain = url.set(drivername="postgresql")
    write_secret(path, (plain.render_as_string(hide_password=False) + "\n").encode())


def told(url: sa.URL) -> str:
    """What of it may be shown."""
    shown = url.set(drivername="postgresql", query={}).render_as_string(hide_password=True)
    where = {name: url.query[name] for name in ("host", "options") if name in url.query}
    return shown if not where else f"{shown} ({', '.join(f'{name}={value}' for name, value in where.items())})"
