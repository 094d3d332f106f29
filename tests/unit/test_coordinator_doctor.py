"""Each line of the coordinator's doctor, for runs that are well and runs that are not."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from coordinator.certificate import Validity, choose_certificate, read_validity
from coordinator.doctor.address import check_certificate, check_name, check_ports
from coordinator.doctor.machine import check_clock, check_disk, check_files, check_quota, clock_is_synchronized
from coordinator.doctor.run import check_alerts, check_backup, check_release_key, check_secrets
from coordinator.run_folder import RunFolder
from coordinator.secret_file import write_secret
from coordinator.storage_forecast import GIB, Storage
from coordinator.web.server import bind
from diffusion_at_home.config.run import ServerSection
from diffusion_at_home.doctor import Check, State
from tests.unit.tiny_run import tiny_config

DAY_MS = 86_400_000
NOW = datetime(2026, 11, 28, tzinfo=UTC)
WELL = Storage(
    used_bytes=10 * GIB,
    quota_bytes=0,
    free_bytes=100 * GIB,
    growth_bytes_per_day=GIB,
    days_to_end=20.0,
    needed_bytes=20 * GIB,
    days_to_quota=None,
    days_to_full=None,
    goes_first="nothing is deleted: there is no quota",
)


def is_like(check: Check, state: State, *words: str) -> None:
    assert check.state is state, check
    assert all(word in f"{check.found} {check.advice}" for word in words), check
    assert check.state in {State.FINE, State.SKIPPED} or check.advice, "it must say what to do"


def server(**settings: object) -> ServerSection:
    return ServerSection.model_validate(settings)


def test_a_disk_that_lasts_is_fine_and_one_that_does_not_says_what_to_do() -> None:
    is_like(check_disk(WELL), State.FINE, "10.00 GiB used", "20.00 GiB more until the end")
    short = replace(WELL, free_bytes=15 * GIB, days_to_full=15.0)
    is_like(check_disk(short), State.WARNING, "full in 15.0 days", "--quota-gib")
    is_like(check_disk(replace(short, free_bytes=2 * GIB, days_to_full=2.0)), State.WARNING, "2.0 days at the present")
    is_like(check_disk(replace(WELL, free_bytes=1)), State.PROBLEM, "free some space")
    young = replace(WELL, growth_bytes_per_day=None, days_to_end=None, needed_bytes=None)
    is_like(check_disk(young), State.FINE, "not known yet")


def test_the_quota_says_when_it_bites_and_what_goes_first() -> None:
    is_like(check_quota(WELL), State.FINE, "nothing is ever deleted")
    bitten = replace(WELL, quota_bytes=12 * GIB, days_to_quota=2.0, goes_first="checkpoint c-2")
    is_like(check_quota(bitten), State.FINE, "10.00 of 12.00 GiB", "in 2.0 days", "checkpoint c-2")


@pytest.mark.parametrize(
    ("synchronized", "behind_ms", "state"),
    [(True, 0, State.FINE), (False, 0, State.WARNING), (None, 0, State.SKIPPED), (True, 2 * 3_600_000, State.WARNING)],
)
def test_a_clock_that_nobody_keeps_or_that_went_back_is_told(
    synchronized: bool | None, behind_ms: int, state: State
) -> None:
    assert check_clock(synchronized=synchronized, now_ms=DAY_MS, newest_ms=DAY_MS + behind_ms).state is state


def test_the_kernel_is_asked_without_harm() -> None:
    assert clock_is_synchronized() in {True, False, None}


def test_open_files_are_counted_for_the_workers_there_are() -> None:
    is_like(check_files(16_384, server(), 2_000), State.FINE, "2,000 workers")
    is_like(check_files(1_024, server(), 0), State.WARNING, "LimitNOFILE")


def test_a_secret_that_others_may_read_is_named(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine.key", tmp_path / "theirs.key"
    write_secret(mine, b"x")
    is_like(check_secrets([mine, tmp_path / "none"]), State.FINE, "mine.key")
    write_secret(theirs, b"x")
    theirs.chmod(0o640)
    is_like(check_secrets([mine, theirs]), State.WARNING, f"chmod 600 {theirs}")


def test_a_run_that_nobody_signs_for_is_told() -> None:
    is_like(check_release_key(tiny_config()), State.WARNING, "dah checkpoint key new")
    is_like(check_release_key(tiny_config(f"release.public_key='{'a' * 64}'")), State.FINE, "aaaa...")


def test_alerts_are_on_or_off_or_damaged(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    is_like(check_alerts(folder), State.FINE, "nobody is told", "dah coordinator alerts")
    write_secret(folder.alerts, json.dumps({"webhook_url": "https://h.org/secret", "silence_minutes": 1}).encode())
    is_like(check_alerts(folder), State.FINE, "told to h.org")
    write_secret(folder.alerts, b"{")
    is_like(check_alerts(folder), State.PROBLEM, "set it anew")


def backup(folder: Path, run_id: str, *taken_at_ms: int) -> Path:
    (folder / "backup.json").write_text(
        json.dumps({"run_id": run_id, "taken": [{"taken_at_ms": at} for at in taken_at_ms]})
    )
    return folder


def test_a_backup_is_as_old_as_its_newest_ledger(tmp_path: Path) -> None:
    look = lambda: check_backup(tmp_path, "tiny-1", 30 * DAY_MS)  # noqa: E731
    is_like(check_backup(None, "tiny-1", 0), State.SKIPPED, "--backup")
    is_like(look(), State.PROBLEM, "is none")
    backup(tmp_path, "tiny-1")
    is_like(look(), State.PROBLEM, "never completed")
    backup(tmp_path, "tiny-1", 20 * DAY_MS, 29 * DAY_MS)
    is_like(look(), State.FINE, "1.0 days old")
    backup(tmp_path, "tiny-1", 20 * DAY_MS)
    is_like(look(), State.WARNING, "10.0 days old")
    backup(tmp_path, "other-2", 29 * DAY_MS)
    is_like(look(), State.PROBLEM, "another run, other-2")
    (tmp_path / "backup.json").write_text("[]")
    is_like(look(), State.PROBLEM, "cannot be read")


def test_the_runs_own_certificate_is_known_by_its_fingerprint(tmp_path: Path) -> None:
    own, section = tmp_path / "tls", server(tls="own")
    is_like(check_certificate(section, own, NOW), State.FINE, "first start makes")
    assert not own.exists(), "a doctor changes nothing"
    choose_certificate(section, own)
    is_like(check_certificate(section, own, NOW), State.FINE, "by its fingerprint")
    is_like(check_certificate(section, own, NOW + timedelta(days=366 * 51)), State.PROBLEM, "has run out")
    (own / "key.pem").write_text("nothing")
    is_like(check_certificate(section, own, NOW), State.PROBLEM, "not a certificate and its key")


def test_a_certificate_of_an_authority_must_name_the_host(tmp_path: Path) -> None:
    made = choose_certificate(server(tls="own"), tmp_path / "tls")
    assert made is not None
    files = {"tls": "files", "certificate": str(made.chain), "key": str(made.key)}
    is_like(check_certificate(server(name="run.org", **files), tmp_path, NOW), State.PROBLEM, "diffusion-at-home")
    named = server(name="diffusion-at-home", **files)
    is_like(check_certificate(named, tmp_path, NOW), State.FINE, "good until")
    ends = read_validity(made.chain).until
    is_like(check_certificate(named, tmp_path, ends - timedelta(days=5)), State.WARNING, "renew")
    is_like(check_certificate(server(name="x", tls="files", certificate="no", key="no"), tmp_path, NOW), State.PROBLEM)


@pytest.mark.parametrize(
    ("host", "named"), [("run.org", False), ("a.run.org", True), ("A.RUN.ORG", True), ("b.a.run.org", False)]
)
def test_a_star_stands_for_one_label(host: str, named: bool) -> None:
    assert Validity(NOW, ("*.run.org",)).names_host(host) is named


@pytest.mark.parametrize("settings", [{}, {"tls": "proxy"}])
def test_where_no_certificate_is_shown_none_is_looked_at(tmp_path: Path, settings: dict[str, str]) -> None:
    assert check_certificate(server(**settings), tmp_path, NOW).state is State.SKIPPED


def test_an_address_that_leads_nowhere_is_told() -> None:
    is_like(check_name(server(host="0.0.0.0")), State.WARNING, "server.name")
    is_like(check_name(server(host="0.0.0.0", name="run.org")), State.FINE, "run.org")


def test_a_port_that_is_taken_is_told() -> None:
    is_like(check_ports(server(http_port=0, grpc_port=0)), State.FINE, "are free")
    with bind("127.0.0.1", 0, "") as taken:
        port = taken.getsockname()[1]
        is_like(check_ports(server(http_port=port)), State.PROBLEM, "in use", "server.http_port")
