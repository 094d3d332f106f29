"""Where else a run's bytes are: `elsewhere.toml` in its folder, which the operator writes; it counts from the next start on.

Not in the run's config: that is fixed for ever and every worker is told it, while buckets and mirrors come and go. Credentials
are in neither: they are in the environment, where the store's own tools look for them, too.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from pydantic import field_validator, model_validator

from diffusion_at_home.config.toml import Section, parse
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.runinfo import MOST_MIRROR_CHARACTERS, MOST_MIRRORS
from diffusion_at_home.tls import is_loopback

SIGNING: Final = frozenset({"s3", "gs", "az"})
"""Schemes of stores that give URLs to who has no credentials."""

_SCHEMES: Final = SIGNING | {"file"}


class Elsewhere(Section):
    """See the module."""

    bucket: str = ""
    """Of an object store, and where in it: s3://NAME/FOLDER, gs://NAME/FOLDER, az://ACCOUNT/NAME/FOLDER or file:///FOLDER, to
    which the run's own folder is added. Empty is none."""
    endpoint: str = ""
    """URL of a store that speaks S3 and is not Amazon's; empty is Amazon's."""
    redirect: bool = True
    """Whether who asks the coordinator for what is in the bucket is led there, by a URL that holds for an hour."""
    mirrors: tuple[str, ...] = ()
    """Where others serve the run's blobs: what stands before /blobs/<sha256>, as https://mirror.example/emoji. A bucket that
    everybody may read is one."""

    @field_validator("bucket")
    @classmethod
    def _is_a_store(cls, bucket: str) -> str:
        parts = urlsplit(bucket)
        if bucket and (parts.scheme not in _SCHEMES or not (parts.netloc or parts.scheme == "file")):
            raise ValueError(f"{parts.scheme}://{parts.hostname or ''} is no store: give one like s3://my-bucket/runs")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError("credentials do not belong here: put them into the environment")
        return bucket.rstrip("/")

    @field_validator("mirrors")
    @classmethod
    def _are_bases(cls, mirrors: tuple[str, ...]) -> tuple[str, ...]:
        if len(mirrors) > MOST_MIRRORS:
            raise ValueError(f"{len(mirrors)} are more than {MOST_MIRRORS}, from which workers choose by chance")
        for url in mirrors:
            parts = urlsplit(url)
            plain = parts.scheme == "http" and is_loopback(parts.hostname or "")
            if not (parts.scheme == "https" or plain) or not parts.hostname or parts.query or parts.fragment:
                raise ValueError(f"{url!r} is no mirror that workers ask: give one like https://mirror.example/emoji")
            if parts.username is not None or len(url) > MOST_MIRROR_CHARACTERS:
                raise ValueError(f"{url[:MOST_MIRROR_CHARACTERS]!r} is too long, or holds credentials")
        return tuple(url.rstrip("/") for url in mirrors)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.endpoint and urlsplit(self.bucket).scheme != "s3":
            raise ValueError("endpoint is of a bucket at s3://: change bucket or endpoint")
        parts = urlsplit(self.endpoint)
        if self.endpoint and (parts.scheme not in {"http", "https"} or not parts.hostname):
            raise ValueError(f"endpoint = {self.endpoint!r} is no address: give one like https://s3.example")
        if parts.scheme == "http" and not is_loopback(parts.hostname or "") and self.redirect:
            raise ValueError("workers are led nowhere in plain text: take an https endpoint, or set redirect = false")
        return self

    @property
    def leads_on(self) -> bool:
        """Whether others are sent to the bucket."""
        return self.redirect and urlsplit(self.bucket).scheme in SIGNING


def read_elsewhere(path: Path) -> Elsewhere:
    """What the file says; nothing if there is none. Raises `ConfigError`."""
    try:
        return parse(tomllib.loads(path.read_text(encoding="utf-8")), Elsewhere, str(path))
    except FileNotFoundError:
        return Elsewhere()
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read ({type(error).__name__})") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
