"""`dah coordinator audit`: the operator's own auditor, on a machine that has the run's folder."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from diffusion_at_home.cli.output import emit, one_line

if TYPE_CHECKING:
    from worker.settings import WorkerSettings

_PAUSE_SECONDS: Final = 2.0
_MOST: Final = 1e30
"""Written for what is infinite."""

T = TypeVar("T")


def audit(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The run's folder, whose coordinator must run.")],
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    leases: Annotated[int | None, typer.Option(min=1, help="Stop after so many; for ever if left out.")] = None,
    since: Annotated[int, typer.Option(min=0, help="Begin after this lease.")] = 0,
    cache: Annotated[Path, typer.Option(help="Folder for what is fetched.")] = Path("audit-cache"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")
    ] = False,
) -> None:
    """Train leases of closed rounds again and compare, until Ctrl-C. Who disagrees twice is banned.

    All of a newcomer's contributions are drawn, then fewer and fewer ([audit] in the run's config). Workers cannot tell.
    """
    from worker.settings import load_settings

    place = cache.absolute()
    settings = load_settings(None, [f"device={device!r}", f"state_dir={str(place)!r}", f"cache_dir={str(place)!r}"])
    emit(_audit(folder.absolute(), settings, leases, since), as_json)


def _audit(folder: Path, settings: WorkerSettings, leases: int | None, since: int) -> dict[str, Any]:
    from coordinator.auditing import Docket
    from coordinator.ledger import Ledger
    from coordinator.orders import config_of
    from coordinator.records import Audited, now_ms
    from coordinator.run_folder import RunFolder
    from diffusion_at_home.errors import ConfigError
    from diffusion_at_home.identity import WorkerId
    from worker.auditor.audit import Auditor, Choice
    from worker.auditor.finding import Outcome
    from worker.run_address import RunAddress
    from worker.selftest.devices import require_sound_devices

    place = RunFolder(folder)
    place.check()
    if not place.is_running():
        raise ConfigError(
            f"{folder} is not served now: start its coordinator, from which an auditor fetches what it needs"
        )
    require_sound_devices(settings)
    counts = dict.fromkeys(Outcome, 0)
    with ExitStack() as opened, closing(Ledger(place.ledger)) as ledger, suppress(KeyboardInterrupt):
        docket = Docket(ledger, config_of(place, ledger).audit, random.SystemRandom(), since)
        auditor = Auditor(RunAddress.parse(place.address.read_text().strip()), settings, opened)
        while leases is None or sum(counts.values()) < leases:
            lease_id = docket.next()
            if lease_id is None:
                _wait()
                continue
            finding = _patiently(lambda: auditor.check(*auditor.choose(Choice(lease=lease_id))))  # noqa: B023 -- called at once
            counts[finding.outcome] += 1
            typer.echo(one_line(str(finding)), err=True)
            if finding.outcome is not Outcome.UNCHECKED:
                agrees = finding.outcome is Outcome.AGREES
                cosine, ratio = (
                    (found.cosine, min(found.length_ratio, _MOST)) if (found := finding.agreement) else (0, 0)
                )
                worker = WorkerId(finding.record.worker_id)
                docket.found(Audited(lease_id, worker, agrees, cosine, ratio, now_ms()), finding.why)
    return {outcome.name.lower(): count for outcome, count in counts.items()}


def _patiently(work: Callable[[], T]) -> T:
    """What `work` returns, once the coordinator answers."""
    from diffusion_at_home.errors import RetryCall

    while True:
        try:
            return work()
        except RetryCall as failure:
            typer.echo(f"{one_line(str(failure))}: trying again", err=True)
            _wait()


def _wait() -> None:
    threading.Event().wait(_PAUSE_SECONDS)
