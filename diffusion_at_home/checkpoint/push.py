"""Puts a verified checkpoint into a repository of a Hugging Face hub: the one file that knows huggingface_hub.

The repository's branch then holds the manifest's files and the manifest, and its signature if it has one; nothing else but the
hub's own .gitattributes. What held something that is no checkpoint before is refused, for it would be deleted. The token is the
library's own affair (`hf auth login`, or HF_TOKEN): nothing here reads it, and no sentence has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME, SIGNATURE_NAME, CheckpointManifest
from diffusion_at_home.checkpoint.verify import verify
from diffusion_at_home.errors import ConfigError, RetryCall, Unreachable

_OWN: Final = ".gitattributes"
"""Every repository of a hub has it."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to."""

    repo: str
    """OWNER/NAME on the hub."""
    private: bool
    """Made so that only its owner sees it."""
    revision: str | None
    """Branch; None is the repository's main one."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What is on the hub now."""

    manifest: CheckpointManifest
    files: tuple[str, ...]
    url: str
    commit: str


def push(folder: Path, target: Target, hub: HfApi | None = None) -> Pushed:
    """Verify the checkpoint in `folder`, then upload it; broken off, the same call goes on where it was.

    Raises:
        IntegrityError, SignatureError: the checkpoint is not what its manifest says; nothing was sent.
        ConfigError: no token, one that may not write there, no such name, or a repository of something else.
        Unreachable, RetryCall: the hub does not answer, or cannot now.
    """
    manifest = verify(folder)
    files = files_of(folder, manifest)
    api = hub or HfApi(library_name="diffusion-at-home")
    with _sentences(target.repo):
        api.create_repo(target.repo, private=target.private, exist_ok=True)
        if target.private and not api.repo_info(target.repo).private:
            raise ConfigError(
                f"{target.repo} is there already, and public: name another repository, or leave --private out"
            )
        if target.revision is not None:
            api.create_branch(target.repo, branch=target.revision, exist_ok=True)
        check_replaceable(target.repo, api.list_repo_files(target.repo, revision=target.revision))
        commit = api.upload_folder(
            repo_id=target.repo,
            folder_path=folder,
            revision=target.revision,
            allow_patterns=list(files),
            delete_patterns="*",
            commit_message=f"{manifest.name}: version {manifest.version:,}, {manifest.images:,} images",
        )
    return Pushed(manifest, files, f"{api.endpoint}/{target.repo}", commit.oid)


def without_bars() -> None:
    """Draw no progress: standard error is not a terminal."""
    disable_progress_bars()


def files_of(folder: Path, manifest: CheckpointManifest) -> tuple[str, ...]:
    """What is uploaded of a verified `folder`, sorted; the names have no character that a pattern would take for another."""
    signature = (SIGNATURE_NAME,) if (folder / SIGNATURE_NAME).is_file() else ()
    return tuple(sorted((*manifest.files, MANIFEST_NAME, *signature)))


def check_replaceable(repo: str, files: list[str]) -> None:
    """Raises `ConfigError` if a repository that has `files` is neither empty nor an earlier checkpoint."""
    others = [name for name in files if name != _OWN]
    if others and MANIFEST_NAME not in others:
        raise ConfigError(f"{repo} holds something else ({others[0]}), which would be deleted: name a new repository")


@contextmanager
def _sentences(repo: str) -> Iterator[None]:
    """What the library raises, as sentences that say what to do."""
    try:
        yield
    except HFValidationError:
        raise ConfigError(f"{repo!r} is no name of a repository: give one like OWNER/NAME") from None
    except LocalTokenNotFoundError:
        raise ConfigError(_NOBODY) from None
    except OfflineModeIsEnabled:
        raise ConfigError("HF_HUB_OFFLINE is set, so nothing is uploaded: unset it") from None
    except HfHubHTTPError as error:
        later = error.response.status_code >= 500 or error.response.status_code == 429
        raise (RetryCall if later else ConfigError)(_why(repo, error)) from None
    except (httpx2.HTTPError, ConnectionError):
        raise Unreachable(f"the hub cannot be reached: try again, and {repo} goes on where it broke off") from None


_NOBODY: Final = "the hub does not know you: run `hf auth login`, or set HF_TOKEN to a token that may write"


def _why(repo: str, error: HfHubHTTPError) -> str:
    match error.response.status_code:
        case 401:
            return _NOBODY
        case 403:
            return f"your token may not write to {repo}: make one that may, or name a repository of yours"
        case 404:
            return f"the hub has no {repo} that you may write to: check the name"
        case status if status >= 500 or status == 429:
            return f"the hub is busy (HTTP {status}): try again later, and {repo} goes on where it broke off"
        case status:
            said = " ".join((error.server_message or "").split())[:200]
            return f"the hub refuses {repo} (HTTP {status}{': ' if said else ''}{said})"
