"""One stretch of work: all that a loop needs, opened in order; whoever closes it again has the machine to itself.

Everything here lasts from a permission to work until it ends. What stays beyond that is in `Lasting`: the state folder, what
was learned of this machine's speed, and the status.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass

from diffusion_at_home import __version__, events
from diffusion_at_home.clock import Clock
from diffusion_at_home.errors import LeaseLost, RetryCall, RunChanged, VersionMismatch
from diffusion_at_home.runinfo import RunInfo
from diffusion_at_home.runspec import RunSpec
from diffusion_at_home.upgrade import upgrade_here
from worker.backoff import Backoff
from worker.blobs import BlobCache, BlobFetcher
from worker.captions import CaptionEmbeddings
from worker.conditions.throttle import Throttle
from worker.device import describe, num_devices, open_device
from worker.grant import GrantReader
from worker.http_line import open_http
from worker.joining import new_session, remember
from worker.loop import Goal, Parts, WorkerLoop
from worker.memory.choice import Machine
from worker.memory.planning import WorkPlan, this_machine
from worker.mirrors import Mirrors
from worker.outbox import Outbox
from worker.pace import Pace
from worker.pacer import Meters, Pacer
from worker.patience import Patience
from worker.planned_trainer import PlannedTrainer
from worker.prefetch import Prefetcher
from worker.progress import Progress, WorkerState
from worker.receipts import Receipts
from worker.replica import Replica
from worker.residual import Residual
from worker.run_address import pins
from worker.run_captions import caption_embeddings
from worker.run_line import RunLine
from worker.samples import LeaseSamples
from worker.sender import Sender
from worker.session import Introduction, Session
from worker.settings import WorkerSettings
from worker.state_folder import StateFolder
from worker.step.compute import Compute
from worker.steppers import OpenStepper, TrainingSite
from worker.stop import StopSignal
from worker.text_encoder import RunTextEncoder
from worker.whereabouts import Workplace

_log = events.logger("worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lasting:
    """What one stretch hands to the next."""

    folder: StateFolder
    open_stepper: OpenStepper
    progress: Progress
    clock: Clock
    pace: Pace
    throttle: Throttle
    meters: Meters


class Stretch:
    """By one state of the settings, until `stop`."""

    def __init__(self, lasting: Lasting, settings: WorkerSettings, stop: StopSignal) -> None:
        """Raises `HardwareError` if the settings name devices that are not there."""
        self._lasting = lasting
        self._progress = lasting.progress
        self._folder = lasting.folder
        self._clock = lasting.clock
        self._settings = settings
        self._stop = stop
        self._devices = num_devices(settings)
        self._backoff = Backoff(settings.retry_floor_seconds, settings.retry_ceiling_seconds)
        self._patience = Patience(self._backoff, self._progress.waiting)

    def open(self, place: Workplace, goal: Goal, opened: ExitStack) -> WorkerLoop:
        """The loop that works for the run at `place`; all it needs is closed with `opened`.

        Raises `Interrupted`, `RunChanged`, `LeaveRun`, `StopProcess`.
        """
        settings, progress, no_more = self._settings, self._progress, self._stop.no_more
        progress.enter(WorkerState.STARTING, f"looking for {place.address.url}")
        compute = open_device(settings)
        http = opened.enter_context(open_http(pins(place.addresses)))
        line = opened.enter_context(
            RunLine(place=place, http=http, patience=self._patience, clock=self._clock, stop=self._stop.event)
        )
        info = self._patience.call(line.find, no_more).info
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
        joined = self._patience.call(lambda: open_session(no_more), no_more)
        line.on_moved(lambda: remember(self._folder, info.run_id, info.title, line.addresses))
        progress.identify(run_id=info.run_id, worker_id=joined.worker_id, device=compute.device.type)
        _log.info("joined", run=info.run_id, worker=joined.worker_id, address=line.url)
        if info.software not in {"", __version__}:  # the protocol is the same, so both go on
            _log.info("other_software", ours=__version__, theirs=info.software)
        cache = BlobCache(settings.cache_dir / "blobs", settings.cache_bytes)
        blobs = BlobFetcher(
            address=line,
            http=http,
            cache=cache,
            patience=self._patience,
            pacer=Pacer(settings.down_bytes_per_second, self._clock, self._stop.event.wait, self._lasting.meters.down),
            on_bytes=progress.received,
            mirrors=Mirrors(info.mirrors, line.url, self._clock),
        )
        spec = self._fetch_spec(session, blobs, info)
        parts = self._wire(spec, session, blobs, compute, opened)
        return WorkerLoop(parts, goal=goal, batch_images=spec.config.inner.batch_images, backoff=self._backoff)

    def _knows(self, run_id: str) -> bool:
        return any(run.run_id == run_id for run in self._folder.joined_runs())

    def _fetch_spec(self, session: Session, blobs: BlobFetcher, info: RunInfo) -> RunSpec:
        self._progress.enter(WorkerState.FETCHING, "the run's specification")
        spec = self._patience.call(lambda: self._read_spec(session, blobs), self._stop.no_more)
        if spec.run_id != info.run_id:
            raise RunChanged(
                f"the specification of {info.run_id} is that of {spec.run_id}, which is the operator's fault"
            )
        return spec

    def _read_spec(self, session: Session, blobs: BlobFetcher) -> RunSpec:
        try:
            with blobs.open(session.spec, self._stop.no_more) as view:
                return RunSpec.from_bytes(bytes(view))
        except LeaseLost as lost:  # there is no lease yet: it is asked for again
            raise RetryCall(str(lost)) from None

    def _wire(self, spec: RunSpec, session: Session, blobs: BlobFetcher, compute: Compute, opened: ExitStack) -> Parts:
        config = spec.config
        self._progress.enter(WorkerState.STARTING, "planning memory")
        tokenizer_json = spec.tokenizer.encode()
        machine = this_machine(compute, self._devices, self._settings)
        plan = WorkPlan(config, tokenizer_json, machine, self._folder.plans, self._stop.raise_if_requested)
        _log.info("memory_planned", plan=str(plan.step))

        site = TrainingSite(config, tokenizer_json, compute, self._settings)
        layout = site.layout()
        if layout.digest != session.layout_sha256:
            raise VersionMismatch(
                "this software builds another model than the coordinator's: upgrade the older one; here that is done by "
                f"`{upgrade_here()}`"
            )
        trainer = PlannedTrainer(
            config,
            plan,
            lambda step: self._lasting.open_stepper(site, layout, step),
            lambda step: self._progress.planned(str(step)),
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
                pacer=Pacer(self._settings.up_bytes_per_second, self._clock, time.sleep, self._lasting.meters.up),
                on_bytes=self._progress.sent,
            ),
            prefetcher=Prefetcher(blobs),
            patience=self._patience,
            progress=self._progress,
            stop=self._stop,
            clock=self._clock,
            pace=self._lasting.pace,
            throttle=self._lasting.throttle,
        )

    def _embeddings(
        self, spec: RunSpec, blobs: BlobFetcher, machine: Machine, plan: WorkPlan, compute: Compute
    ) -> CaptionEmbeddings | None:
        """Of a run whose text encoder is frozen, which is fetched before any lease is asked for."""

        def fetch(encoder: RunTextEncoder) -> None:
            self._progress.enter(WorkerState.FETCHING, "the text encoder")
            self._patience.call(lambda: self._fetch_encoder(encoder), self._stop.no_more)

        return caption_embeddings(spec, blobs, machine=machine, plan=plan, compute=compute, fetch=fetch)

    def _fetch_encoder(self, encoder: RunTextEncoder) -> None:
        try:
            encoder.fetch(self._stop.no_more)
        except LeaseLost as lost:  # there is no lease yet: it is asked for again
            raise RetryCall(str(lost)) from None
