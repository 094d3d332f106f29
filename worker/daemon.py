"""The worker's composition root: opens what the loop needs, in order, and closes it again.

It never gives up on a coordinator that is down, has moved or talks nonsense: it waits, says so, looks for it at all its
addresses, and ends within a second when asked to. What no longer fits the run is closed and opened anew.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console

from diffusion_at_home import events
from diffusion_at_home.clock import SystemClock
from diffusion_at_home.errors import LeaseLost, RetryCall, RunChanged, VersionMismatch
from diffusion_at_home.runinfo import RunInfo
from diffusion_at_home.runspec import RunSpec
from worker.backoff import Backoff
from worker.blobs import BlobCache, BlobFetcher
from worker.captions import CaptionEmbeddings
from worker.device import describe, num_devices, open_device
from worker.grant import GrantReader
from worker.http_line import open_http
from worker.joining import new_session, remember
from worker.live_line import live_line
from worker.loop import Goal, Parts, WorkerLoop
from worker.memory.choice import Machine
from worker.memory.planning import WorkPlan, this_machine
from worker.outbox import Outbox
from worker.pacer import Pacer
from worker.patience import Patience
from worker.planned_trainer import PlannedTrainer
from worker.prefetch import Prefetcher
from worker.progress import Progress, Status, WorkerState
from worker.receipts import Receipts
from worker.replica import Replica
from worker.residual import Residual
from worker.run_address import pins
from worker.run_captions import caption_embeddings
from worker.run_line import RunLine
from worker.samples import LeaseSamples
from worker.selftest.devices import require_sound_devices
from worker.sender import Sender
from worker.session import Introduction, Session
from worker.settings import WorkerSettings
from worker.state_folder import StateFolder, locked
from worker.step.compute import Compute
from worker.steppers import OpenStepper, TrainingSite, open_stepper
from worker.stop import Interrupted, StopSignal
from worker.text_encoder import RunTextEncoder
from worker.whereabouts import Workplace

_log = events.logger("worker")


def run_worker(settings: WorkerSettings, folder: StateFolder, place: Workplace, goal: Goal) -> Status:
    """Work for the run at `place` until a signal, the goal or the end of the run.

    Returns the last status. Raises `LeaveRun`, `StopProcess`.
    """
    console = Console(stderr=True)
    with (
        folder.locked(),
        locked(settings.cache_dir / "blobs.lock", "stop it or set another cache_dir"),
        _events(folder, console),
    ):
        daemon = Daemon(settings, folder)
        with daemon.stop.on_signals(), live_line(console, lambda: daemon.progress.status):
            daemon.run(place, goal)
        return daemon.progress.status


class Daemon:
    """One worker process."""

    def __init__(
        self,
        settings: WorkerSettings,
        folder: StateFolder,
        open_stepper: OpenStepper = open_stepper,
        require_sound: Callable[[WorkerSettings], None] = require_sound_devices,
    ) -> None:
        """`require_sound` raises `HardwareError` if this machine computes wrongly."""
        self._require_sound = require_sound
        self._open_stepper = open_stepper
        self.stop = StopSignal()
        self._clock = SystemClock()
        self.progress = Progress(folder.status, self._clock)
        self._settings = settings
        self._folder = folder
        self._devices = num_devices(settings)
        self._backoff = Backoff(settings.retry_floor_seconds, settings.retry_ceiling_seconds)
        self._patience = Patience(self._backoff, self.progress.waiting)

    def run(self, place: Workplace, goal: Goal) -> None:
        """See `run_worker`."""
        try:
            changes = 0
            while (change := self._work(place, goal)) is not None:
                changes += 1
                self.progress.enter(WorkerState.WAITING, f"{change}: opening the run anew")
                _log.warning("run_changed", reason=str(change))
                if self.stop.event.wait(self._backoff.seconds(changes)):
                    raise Interrupted
        except Interrupted:
            self.progress.enter(WorkerState.STOPPED, "it was asked to stop")
        except BaseException as error:  # raised again; the status file must say why
            self.progress.enter(WorkerState.STOPPED, f"{error}" or type(error).__name__)
            raise
        status = self.progress.status
        _log.info("worker_stopped", reason=status.reason, images=status.images_total, leases=status.leases_done)

    def _work(self, place: Workplace, goal: Goal) -> RunChanged | None:
        """Work to the end, or until the run is no longer what it was."""
        try:
            with ExitStack() as opened:
                self._open_loop(place, goal, opened).run()
        except RunChanged as change:
            return change
        return None

    def _open_loop(self, place: Workplace, goal: Goal, opened: ExitStack) -> WorkerLoop:
        settings, stop, progress = self._settings, self.stop, self.progress
        self._self_test()
        progress.enter(WorkerState.STARTING, f"looking for {place.address.url}")
        compute = open_device(settings)
        http = opened.enter_context(open_http(pins(place.addresses)))
        line = opened.enter_context(
            RunLine(place=place, http=http, patience=self._patience, clock=self._clock, stop=stop.event)
        )
        info = self._patience.call(line.find, stop.event).info
        session = new_session(
            client=line.client,
            run_id=info.run_id,
            folder=self._folder,
            introduction=Introduction(
                settings.display_name, describe(compute, self._devices), place.invite, settings.team
            ),
            line=line,
        )
        open_session = session.reopen if self._knows(info.run_id) else session.open
        joined = self._patience.call(lambda: open_session(stop.event), stop.event)
        line.on_moved(lambda: remember(self._folder, info.run_id, info.title, line.addresses))
        progress.identify(run_id=info.run_id, worker_id=joined.worker_id, device=compute.device.type)
        _log.info("joined", run=info.run_id, worker=joined.worker_id, address=line.url)
        cache = BlobCache(settings.cache_dir / "blobs", settings.cache_bytes)
        blobs = BlobFetcher(
            address=line,
            http=http,
            cache=cache,
            patience=self._patience,
            pacer=Pacer(settings.down_bytes_per_second, self._clock, stop.event.wait),
            on_bytes=progress.received,
            on_failure=line.failed,
        )
        spec = self._fetch_spec(session, blobs, info)
        parts = self._wire(spec, session, blobs, compute, opened)
        return WorkerLoop(parts, goal=goal, batch_images=spec.config.inner.batch_images, backoff=self._backoff)

    def _knows(self, run_id: str) -> bool:
        return any(run.run_id == run_id for run in self._folder.joined_runs())

    def _self_test(self) -> None:
        self.progress.enter(WorkerState.STARTING, "checking that this machine computes right")
        started = time.monotonic()
        self._require_sound(self._settings)
        _log.info("self_test_passed", devices=self._devices, seconds=round(time.monotonic() - started, 2))

    def _fetch_spec(self, session: Session, blobs: BlobFetcher, info: RunInfo) -> RunSpec:
        self.progress.enter(WorkerState.FETCHING, "the run's specification")
        spec = self._patience.call(lambda: self._read_spec(session, blobs), self.stop.event)
        if spec.run_id != info.run_id:
            raise RunChanged(
                f"the specification of {info.run_id} is that of {spec.run_id}, which is the operator's fault"
            )
        return spec

    def _read_spec(self, session: Session, blobs: BlobFetcher) -> RunSpec:
        try:
            with blobs.open(session.spec, self.stop.event) as view:
                return RunSpec.from_bytes(bytes(view))
        except LeaseLost as lost:  # there is no lease yet: it is asked for again
            raise RetryCall(str(lost)) from None

    def _wire(self, spec: RunSpec, session: Session, blobs: BlobFetcher, compute: Compute, opened: ExitStack) -> Parts:
        config = spec.config
        self.progress.enter(WorkerState.STARTING, "planning memory")
        tokenizer_json = spec.tokenizer.encode()
        machine = this_machine(compute, self._devices)
        plan = WorkPlan(config, tokenizer_json, machine, self._folder.plans, self.stop.raise_if_requested)
        _log.info("memory_planned", plan=str(plan.step))

        site = TrainingSite(config, tokenizer_json, compute, self._settings)
        layout = site.layout()
        if layout.digest != session.layout_sha256:
            raise VersionMismatch("this software builds another model than the coordinator's: upgrade the older one")
        trainer = PlannedTrainer(
            config,
            plan,
            lambda step: self._open_stepper(site, layout, step),
            lambda step: self.progress.planned(str(step)),
        )
        opened.callback(trainer.close)
        residual = Residual(self._folder.residual(spec.run_id), config.codec, layout)
        opened.callback(residual.close)
        outbox = Outbox(self._folder.outbox(spec.run_id), residual)
        embeddings = self._embeddings(spec, blobs, machine, plan, compute)
        return Parts(
            session=session,
            grants=GrantReader(config, spec.data, layout),
            replica=Replica(layout, config.codec.update, blobs),
            samples=LeaseSamples(
                spec.data,
                blobs,
                batch_images=config.inner.batch_images,
                seed=config.run.seed,
                embeddings=embeddings,
            ),
            trainer=trainer,
            residual=residual,
            outbox=outbox,
            sender=Sender(
                session=session,
                outbox=outbox,
                receipts=Receipts(
                    self._folder.receipts(spec.run_id),
                    run_id=spec.run_id,
                    worker_id=session.worker_id,
                    public_key=spec.receipt_key,
                ),
                patience=self._patience,
                clock=self._clock,
                pacer=Pacer(self._settings.up_bytes_per_second, self._clock, time.sleep),
                on_bytes=self.progress.sent,
            ),
            prefetcher=Prefetcher(blobs),
            patience=self._patience,
            progress=self.progress,
            stop=self.stop,
            clock=self._clock,
        )

    def _embeddings(
        self, spec: RunSpec, blobs: BlobFetcher, machine: Machine, plan: WorkPlan, compute: Compute
    ) -> CaptionEmbeddings | None:
        """Of a run whose text encoder is frozen, which is fetched before any lease is asked for."""

        def fetch(encoder: RunTextEncoder) -> None:
            self.progress.enter(WorkerState.FETCHING, "the text encoder")
            self._patience.call(lambda: self._fetch_encoder(encoder), self.stop.event)

        return caption_embeddings(spec, blobs, machine=machine, plan=plan, compute=compute, fetch=fetch)

    def _fetch_encoder(self, encoder: RunTextEncoder) -> None:
        try:
            encoder.fetch(self.stop.event)
        except LeaseLost as lost:  # there is no lease yet: it is asked for again
            raise RetryCall(str(lost)) from None


@contextmanager
def _events(folder: StateFolder, console: Console) -> Iterator[None]:
    """Within, events go to the worker's log, and to stderr unless a live line is drawn there."""
    events.configure(folder.log, None if console.is_terminal else sys.stderr)
    try:
        yield
    finally:
        events.configure(None, None)
