"""The demo from nothing to a picture: data, run, processes, training, checkpoint, score. Run again, it goes on."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2

from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.demo.data_set import DemoData
from diffusion_at_home.demo.fleet import Fleet, check, wait_for_address
from diffusion_at_home.demo.forecast import Forecast
from diffusion_at_home.demo.judges import JUDGES
from diffusion_at_home.demo.step import dah

_POLL_SECONDS: Final = 0.5

Status = dict[str, Any]
"""What the run's address answers at /status.json."""


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What to run and where."""

    config: Path
    out: Path
    workers: int
    images: int | None
    """Instead of the config's run.total_images."""

    @property
    def run(self) -> Path:
        """The coordinator's folder."""
        return self.out / "run"

    @property
    def checkpoint(self) -> Path:
        """The downloaded result."""
        return self.out / "checkpoint"

    @property
    def grid(self) -> Path:
        """The picture."""
        return self.out / "grid.png"


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The demo's last line."""

    images: int
    rounds: int
    versions: int
    workers: int
    seconds: float
    """From the start of the processes to the last checkpoint."""
    val_loss: float
    quality: dict[str, float]
    """What the judge of this data set found; see `demo.judges`."""
    parameters: int
    uplink_bytes_per_parameter: float
    """Of one contribution."""
    downlink_bytes_per_parameter: float
    """Of one update."""
    checkpoint: str
    grid: str


def run_demo(plan: DemoPlan, *, say: Callable[[str], None], show: Callable[[Status], None]) -> DemoResult:
    """Do all of it.

    Args:
        plan: what to run and where; `plan.out` may hold an earlier demo that was stopped.
        say: told what happens, a sentence at a time.
        show: told the run's status twice a second while it trains.

    Raises:
        DahError: whatever a step or a process ended with.
    """
    data = _prepare(plan, say)
    started = time.monotonic()
    address = plan.run / "address"
    address.unlink(missing_ok=True)  # of a coordinator that was killed
    with Fleet(plan.out / "logs") as fleet:
        # One thread: the workers need the cores more.
        ports = ["--http-port", "0", "--grpc-port", "0", "--threads", "1"]
        fleet.start("coordinator", ["coordinator", "run", str(plan.run), *ports])
        url = wait_for_address(fleet, address)
        say(f"coordinator at {url}; {plan.workers} workers join")
        for number in range(1, plan.workers + 1):
            fleet.start(f"worker-{number}", _worker_command(plan, number, url))
        status = _train(fleet, url, say, show)
        seconds = time.monotonic() - started
        say("downloading and verifying the checkpoint")
        shutil.rmtree(plan.checkpoint, ignore_errors=True)
        dah("checkpoint", "download", url, "--which", "latest", "--out", str(plan.checkpoint))
    say("drawing with the downloaded checkpoint and judging the pictures")
    return _result(plan, data, status, seconds)


def _prepare(plan: DemoPlan, say: Callable[[str], None]) -> DemoData:
    config = load_toml(plan.config, RunConfig)
    data = DemoData.of(config, plan.config, plan.out)
    plan.out.mkdir(parents=True, exist_ok=True)
    data.make(config, say)
    if (plan.run / "ledger.sqlite").is_file():
        say(f"going on with the run in {plan.run}")
        return data
    overrides = [*data.overrides, "judging.every_images=0"]  # the demo judges the last checkpoint itself
    if plan.images is not None:
        overrides += [f"run.total_images={plan.images}", *_shortened(config, plan.images)]
    pairs = [part for override in overrides for part in ("--set", override)]
    dah("coordinator", "init", str(plan.run), "--config", str(plan.config), *pairs)
    say(f"made a new run in {plan.run}")
    return data


def _shortened(config: RunConfig, images: int) -> list[str]:
    """The config's schedule for a run of `images`."""
    schedule, total = config.schedule, config.run.total_images
    return [
        f"schedule.warmup_images={schedule.warmup_images * images // total}",
        f"schedule.decay_images={schedule.decay_images * images // total}",
    ]


def _worker_command(plan: DemoPlan, number: int, url: str) -> Sequence[str]:
    state = plan.out / "workers" / str(number)
    settings = {
        "display_name": f"demo-{number}",
        "threads": str(max(1, (os.cpu_count() or 1) // plan.workers)),
        "retry_floor_seconds": "1",
        "retry_ceiling_seconds": "5",
    }
    pairs = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return ["worker", "run", url, "--state-dir", str(state), *pairs]


def _train(fleet: Fleet, url: str, say: Callable[[str], None], show: Callable[[Status], None]) -> Status:
    evaluated, forecast = -1, Forecast()
    with httpx2.Client(base_url=url, timeout=30) as client:  # on this machine, so in plain text
        while True:
            status: Status = client.get("/status.json").raise_for_status().json()
            show(status)
            if sentence := forecast.sentence(status["images"], status["total_images"], time.monotonic()):
                say(sentence)
            newest = status["evaluations"][-1] if status["evaluations"] else None
            if newest is not None and newest["version"] > evaluated:
                evaluated = newest["version"]
                say(f"{newest['images']:>7,} images, version {evaluated}: held-out loss {status['held_out_loss']:.4f}")
            if status["live"]["complete"]:
                return status
            for sentence in check(fleet):
                say(sentence)
            time.sleep(_POLL_SECONDS)


def _result(plan: DemoPlan, data: DemoData, status: Status, seconds: float) -> DemoResult:
    from diffusion_at_home.checkpoint.manifest import load_manifest  # noqa: PLC0415 -- torch only when it is needed

    manifest = load_manifest(plan.checkpoint)
    quality = JUDGES[data.source](plan.checkpoint, data.pictures, plan.out)
    shutil.copyfile(plan.checkpoint / "grid.png", plan.grid)
    latest = status["checkpoints"][-1]
    return DemoResult(
        images=status["images"],
        rounds=status["rounds"],
        versions=status["version"],
        workers=status["workers"],
        seconds=round(seconds, 1),
        val_loss=latest["held_out_loss"],
        quality=quality,
        parameters=manifest.parameters,
        uplink_bytes_per_parameter=status["uplink_bytes"] / status["contributions"] / manifest.parameters,
        downlink_bytes_per_parameter=status["downlink_bytes"] / status["rounds"] / manifest.parameters,
        checkpoint=str(plan.checkpoint),
        grid=str(plan.grid),
    )
