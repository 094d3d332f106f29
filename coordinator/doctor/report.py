"""All the questions about a run and the machine that serves it, in order, and what the answers come to."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from coordinator.doctor.address import Visit, check_certificate, check_name, check_ports
from coordinator.doctor.elsewhere import check_elsewhere
from coordinator.doctor.machine import (
    check_clock,
    check_disk,
    check_files,
    check_quota,
    clock_is_synchronized,
    most_files,
)
from coordinator.doctor.run import (
    check_alerts,
    check_backup,
    check_judging,
    check_receipt_key,
    check_release_key,
    check_secrets,
)
from coordinator.ledger import Ledger
from coordinator.parts import Gone, spec_of
from coordinator.records import now_ms
from coordinator.run_folder import RunFolder
from coordinator.storage_survey import quota_bytes, read_records, survey
from diffusion_at_home.config.run import ServerSection
from diffusion_at_home.doctor import Check, Diagnosis, failed, fine, problem
from diffusion_at_home.errors import DahError, IntegrityError, Unreachable
from diffusion_at_home.runspec import RunSpec


def diagnose(folder: RunFolder, backup: Path | None) -> Diagnosis:
    """Look at the run in `folder`, its `backup` if one is named, and this machine. Changes nothing.

    Raises `ConfigError` if there is no run: any other failure is a line.
    """
    folder.check()
    try:
        with closing(Ledger(folder.ledger, read_only=True)) as ledger:
            ledger.check()
            spec = spec_of(folder, ledger)
            return Diagnosis((*_look_at_run(folder, ledger, spec), *_look_around(folder, ledger, spec, backup)))
    except DahError as error:
        return Diagnosis((failed("ledger", error, "restore the run from a backup"),))
    except Gone as error:
        return Diagnosis((problem("config", f"{error} is missing", "restore the run from a backup", IntegrityError),))


def _look_at_run(folder: RunFolder, ledger: Ledger, spec: RunSpec) -> list[Check]:
    newest = ledger.newest_version()
    total = spec.config.run.total_images
    return [
        fine("ledger", f"version {newest.version}, {newest.images:,} of {total:,} images"),
        fine("config", f"{spec.run_id}, read and sound"),
        check_receipt_key(folder, spec),
        check_release_key(spec.config),
        check_judging(folder, spec),
        check_secrets(_secrets(folder, spec.config.server)),
        check_alerts(folder),
    ]


def _look_around(folder: RunFolder, ledger: Ledger, spec: RunSpec, backup: Path | None) -> list[Check]:
    server, history = spec.config.server, ledger.versions()
    quota, records = quota_bytes(folder, spec.config), read_records(ledger)
    storage = survey(folder, spec.config, history, records, quota)
    return [
        check_backup(backup, spec.run_id, now_ms()),
        check_elsewhere(folder, spec, history),
        check_disk(storage),
        check_quota(storage),
        check_clock(synchronized=clock_is_synchronized(), now_ms=now_ms(), newest_ms=history[-1].published_at_ms),
        check_files(most_files(folder), server, records.totals.joined),
        check_name(server),
        check_certificate(server, folder.tls, datetime.now(UTC)),
        *_look_at_address(folder, server, spec.run_id),
    ]


def _look_at_address(folder: RunFolder, server: ServerSection, run_id: str) -> list[Check]:
    if not folder.is_running():
        return [check_ports(server)]
    if not folder.address.is_file():
        return [problem("http", "a coordinator is starting, or stopping", "ask again in a minute", Unreachable)]
    return Visit(folder.address.read_text().strip(), run_id).checks()


def _secrets(folder: RunFolder, server: ServerSection) -> list[Path]:
    named = [Path(server.key)] if server.key else []
    return [folder.receipt_key, folder.ledger_url, folder.tls / "key.pem", folder.alerts, folder.login, *named]
