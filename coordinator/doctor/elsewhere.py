"""What can be told of where else the run's bytes are: the bucket, and the mirrors."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.elsewhere.bucket import Bucket
from coordinator.elsewhere.public_files import public_files
from coordinator.elsewhere.settings import Elsewhere, read_elsewhere
from coordinator.records import Version
from coordinator.run_folder import RunFolder
from diffusion_at_home.doctor import Check, checked, fine, warning
from diffusion_at_home.errors import ConfigError
from diffusion_at_home.runspec import RunSpec


def check_elsewhere(folder: RunFolder, spec: RunSpec, history: Sequence[Version]) -> Check:
    """Whether what the operator wants there is there."""
    return checked(
        "elsewhere",
        lambda: _look(read_elsewhere(folder.elsewhere), folder, spec, history),
        f"see {folder.elsewhere.name} in docs/operators.md: the address, the credentials in the environment, and what they allow",
        ConfigError,
    )


def _look(elsewhere: Elsewhere, folder: RunFolder, spec: RunSpec, history: Sequence[Version]) -> Check:
    mirrors = f"{len(elsewhere.mirrors)} mirrors are listed"
    if not elsewhere.bucket:
        advice = "a bucket or mirrors take the downloads off this line"
        return fine("elsewhere", mirrors if elsewhere.mirrors else "all bytes come from here", advice)
    bucket = Bucket(elsewhere, spec.run_id)
    there, wanted = bucket.sizes(), public_files(folder, spec, history).wanted
    lacking = [name for name, path in wanted.items() if there.get(name) != path.stat().st_size]
    found = f"{bucket.url} has {len(wanted) - len(lacking)} of {len(wanted)} files; {mirrors}"
    if lacking and folder.is_running():
        return warning("elsewhere", found, "the coordinator is writing them, or says in its log why not")
    if lacking:
        return fine("elsewhere", found, "the coordinator writes the others when it runs")
    return fine("elsewhere", found)
