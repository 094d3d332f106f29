"""What can be told of the run's own folder: its secrets, its backup, who signs, who judges, who is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from coordinator.alerts.target import read_target
from coordinator.judging.choice import why_not
from coordinator.receipts import ReceiptSigner
from coordinator.run_folder import RunFolder
from coordinator.secret_file import is_private
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.doctor import Check, checked, fine, problem, skipped, warning
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.runspec import RunSpec

_OLD_BACKUP: Final = timedelta(days=7)


def check_secrets(paths: Sequence[Path]) -> Check:
    """Whether each of `paths` that is there is its owner's alone."""
    there = [path for path in paths if path.exists()]
    open_ones = [path for path in there if not is_private(path)]
    if open_ones:
        names = " ".join(str(path) for path in open_ones)
        return warning("secrets", f"others on this machine may read {names}", f"chmod 600 {names}")
    return fine("secrets", f"{', '.join(path.name for path in there) or 'none'}: only their owner may read them")


def check_receipt_key(folder: RunFolder, spec: RunSpec) -> Check:
    """Whether the coordinator can sign what it receives: it does not start otherwise."""

    def look() -> Check:
        ReceiptSigner.load(folder.receipt_key, spec)
        return fine("receipt_key", "the one that the run's specification names")

    return checked("receipt_key", look, "restore it from a backup of the run", ConfigError)


def check_release_key(config: RunConfig) -> Check:
    """Whether anybody can tell this run's checkpoints from somebody else's."""
    key = config.release.public_key
    if key:
        return fine("release_key", f"{key[:16]}... signs the checkpoints, on another machine than this")
    return warning(
        "release_key",
        "none: nobody can verify whose the checkpoints are",
        "make one with `dah checkpoint key new`, and name it as release.public_key at the next `init`",
    )


def check_judging(folder: RunFolder, spec: RunSpec) -> Check:
    """Whether checkpoints are judged."""
    why = why_not(spec, has_pictures=folder.pictures.is_dir())
    if not why:
        return fine("judging", f"every {spec.config.judging.every_images:,} images")
    if spec.config.judging.every_images == 0:
        return skipped("judging", f"switched off: {why}")
    return warning("judging", f"no checkpoint is judged: {why}", "name pictures as judging.data at the next `init`")


def check_alerts(folder: RunFolder) -> Check:
    """Whether anybody is told of problems."""

    def look() -> Check:
        target = read_target(folder.alerts)
        if target is None:
            advice = "`dah coordinator alerts` lets a chat or a phone know of problems"
            return fine("alerts", "nobody is told of problems", advice)
        return fine("alerts", f"problems are told to {target.host}")

    return checked("alerts", look, "set them anew", ConfigError)


def check_backup(backup: Path | None, run_id: str, now_ms: int) -> Check:
    """How old the backup in the folder `backup` is; None is none that was named."""
    if backup is None:
        return skipped("backup", "name its folder with --backup to have it looked at")
    mark = RunFolder(backup).backup_mark
    make = "make one with `dah coordinator backup`"
    try:
        found = json.loads(mark.read_bytes())
        whose, taken = str(found["run_id"]), [int(one["taken_at_ms"]) for one in found["taken"]]
    except FileNotFoundError:
        return problem("backup", f"{backup} is none", make, ConfigError)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return problem("backup", f"{mark} cannot be read ({type(error).__name__})", make, ConfigError)
    if whose != run_id:
        return problem("backup", f"{backup} is one of another run, {whose}", make, ConfigError)
    if not taken:
        return problem("backup", f"{backup} was never completed", make, ConfigError)
    age = timedelta(milliseconds=max(0, now_ms - max(taken)))
    found_words = f"{age / timedelta(days=1):.1f} days old"
    if age > _OLD_BACKUP:
        return warning("backup", found_words, "make it anew, best each night: what came since is lost without it")
    return fine("backup", found_words)
