"""What `dah worker status` says to people; programs get every field with --json. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from worker.progress import Status

_WISHES: Final = {
    "paused": "that it rests",
    "finishing": "that it ends after the lease at hand",
    "stopping": "that it ends",
    "unknown": "not known: it does not answer",
}


def status_lines(found: Status, *, wish: str | None, paused_until: datetime | None, now: datetime) -> dict[str, Any]:
    """Words and numbers by what they are; without what there is not. `wish` is None if no worker runs; `now` is aware."""
    from rich.filesize import decimal

    lines: dict[str, Any] = {
        "running": wish is not None,
        **_state(found, wish),
        **_until(paused_until or (found.until if wish is not None else None), now),
        "run": found.run_id,
        "worker": found.worker_id,
        "device": found.device,
        "plan": found.plan,
        "lease": _lease(found) if wish is not None else "",
        "speed": f"{found.images_per_second:.3g} images a second" if found.images_per_second else "",
        "handed in": f"{found.images_total:,} images in {found.leases_done:,} leases since it was started",
        "came to nothing": _counts(found.refusals),
        "did not count": _counts(found.left_out),
        "time spent": ", ".join(f"{state.value} {span(seconds)}" for state, seconds in found.seconds.items()),
        "line": f"{decimal(found.bytes_up)} up, {decimal(found.bytes_down)} down" if found.bytes_down else "",
        "last change": f"{span((now - found.updated_at).total_seconds())} ago",
    }
    return {name: words for name, words in lines.items() if words != ""}


def paused_lines(paused_until: datetime | None, now: datetime) -> dict[str, Any]:
    """Of a pause that the next worker will find."""
    return {"next start": "it is paused until dah worker resume", **_until(paused_until, now)}


def span(seconds: float) -> str:
    """The two largest units of a time."""
    whole = max(0, round(seconds))
    for unit, length, smaller, smaller_length in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            rest = whole % length // smaller_length
            return f"{whole // length} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def _state(found: Status, wish: str | None) -> dict[str, Any]:
    state, reason = found.state.value, found.reason
    if wish is None and state != "stopped":
        return {"state": "ended without a word", "it was": f"{state}: {reason}"}
    said = found.idle_reason is not None and found.idle_reason.value.startswith("paused")  # the reason is the wish
    wanted = "" if said and wish == "paused" else _WISHES.get(wish or "", "")
    return {"state": state, "because": reason, "you want": wanted}


def _until(until: datetime | None, now: datetime) -> dict[str, Any]:
    if until is None:
        return {}
    local, today = until.astimezone(), now.astimezone().date()
    day = {today: "today", today + timedelta(days=1): "tomorrow"}.get(local.date(), f"{local:%a %-d %b %Y}")
    return {"until": f"{day} {local:%H:%M}, in {span((until - now).total_seconds())}"}


def _lease(found: Status) -> str:
    if not found.lease_quota_images:
        return ""
    loss = "" if found.loss is None else f", loss {found.loss:.4f}"
    return f"{found.lease_images:,} of {found.lease_quota_images:,} images on version {found.version:,}{loss}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason.replace('_', ' ')}: {count:,}" for reason, count in counts.items())
