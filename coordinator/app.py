"""The coordinator's composition root: builds every component, wires them, starts and stops them in order.

One asyncio loop runs the gRPC service, the web pages, the rounds, the exporter, the judge, the scrubber, the gate and what the
operator orders; blocking work has threads: the ledger one, tensors one, screening two, the disk eight, export, judging and
scrubbing one each; judging itself has a process. If any of the background tasks dies, the process stops and says why.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
import torch
from grpc_health.v1 import _async as _health
from grpc_health.v1 import health_pb2_grpc

from coordinator.admission import Admission
from coordinator.alerts.watch import AlertWatch, Observed
from coordinator.attentive_clock import AttentiveClock
from coordinator.blobs import BlobStore, allow_many_files, read_spec
from coordinator.certificate import Certificate, choose_certificate
from coordinator.checkpoints import Checkpoints
from coordinator.disk import Disk
from coordinator.dispatcher import Dispatcher
from coordinator.elsewhere.bucket import Bucket
from coordinator.elsewhere.keeper import Keeper, Nowhere
from coordinator.elsewhere.public_files import public_files
from coordinator.elsewhere.settings import read_elsewhere
from coordinator.enrolment import Enrolment
from coordinator.exporter import Exporter
from coordinator.gate import Gate
from coordinator.housekeeping import GIB, Housekeeper
from coordinator.intake import Intake
from coordinator.judging.choice import why_not
from coordinator.judging.judge import Judge
from coordinator.judging.published import Judgements
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.metrics import Metrics
from coordinator.operator import Operator
from coordinator.parsing import LenientParser
from coordinator.public_leases import PublicLeases
from coordinator.receipts import ReceiptSigner
from coordinator.records import now_ms
from coordinator.recovery import look_for_losses, report, sweep
from coordinator.refusal_book import RefusalBook
from coordinator.registry import Registry
from coordinator.round_screening import RoundScreening
from coordinator.rounds import Parts, Rounds
from coordinator.run_folder import RunFolder
from coordinator.run_layout import run_layout
from coordinator.screening import Expected
from coordinator.scrubber import Scrubber
from coordinator.second_opinions import SecondOpinions
from coordinator.service import CoordinatorService
from coordinator.signatures import Signatures
from coordinator.standing import Standing
from coordinator.standing_orders import told
from coordinator.states import States
from coordinator.status import LiveStatus, live_status, read_status
from coordinator.storage_watch import StorageWatch
from coordinator.uploads import MAX_CHUNK_BYTES, Uploads
from coordinator.versions import Versions
from coordinator.web.app import Shown, web_app
from coordinator.web.operator.desk import Desk
from coordinator.web.operator.entrance import Entrance
from coordinator.web.server import WebServer, bind
from coordinator.web.site import Site
from coordinator.web.sources import Sources, disk_now
from diffusion_at_home import PROTOCOL_VERSION, __version__, events
from diffusion_at_home.clock import SystemClock
from diffusion_at_home.config.run import ServerSection, Tls
from diffusion_at_home.errors import PortInUse
from diffusion_at_home.model.build import build_model
from diffusion_at_home.outer.state import RunState
from diffusion_at_home.rpc.coordinator_pb2_grpc import add_CoordinatorServicer_to_server
from diffusion_at_home.runinfo import RunInfo
from diffusion_at_home.runspec import RunSpec
from diffusion_at_home.tls import with_pin
from diffusion_at_home.wire.layout import Layout

_STOP_GRACE_SECONDS: Final = 5.0
"""What a contribution that is coming in when we stop has left."""

_OTHER_CALLS: Final = 1024
"""Open at once beside those that wait for work."""

_NUM_ACCEPTORS: Final = 8
"""A grpc.aio server takes up one new call in each turn of the loop: with one of them, heartbeats would wait in a line that
nobody sees while turns are long. Connections are dealt out among them."""

_NUM_DISK_THREADS: Final = 8
"""That wait for the disk: a sync takes milliseconds, and the disk makes several at once."""

_GRPC_OPTIONS: Final = [
    ("grpc.so_reuseport", 1),
    # A connection is one worker's, which has three calls open at most; refused hand-ins count until garbage is collected.
    ("grpc.max_concurrent_streams", 256),
    ("grpc.max_connection_idle_ms", 300_000),  # one without a call gives its descriptor back
    ("grpc.max_receive_message_length", MAX_CHUNK_BYTES + 64 * 1024),
    ("grpc.max_metadata_size", 16 * 1024),
    # Workers ping every 30 s, also between two calls, so that no router on the way forgets their connection.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A line that died silently in mid-upload must not keep its lease from being handed in over another.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # What a stream may send ahead of its reader: 80 Mbit/s on a line of 100 ms, and no more memory on quicker ones.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 20),
]

_log = events.logger("coordinator")


class Coordinator:
    """One run, served until it is told to stop. The caller holds the folder's lock."""

    def __init__(self, folder: RunFolder, quota_gib: float | None = None) -> None:
        """Open everything that is on disk, and mend what a crash has left; `quota_gib` goes before storage.quota_gib.

        Raises `IntegrityError`, `StorageError`, `ConfigError` if the run's own key is missing, or its ledger has a coordinator.
        """
        ledger = Ledger(folder.ledger)
        ledger.take_seat()  # before anything is changed, and the folder's lock need not reach another machine
        ledger.check()
        history = ledger.versions()
        self._blobs = blobs = BlobStore(folder.blobs, folder.staging)
        self._spec = spec = read_spec(blobs, ledger.spec_sha256())
        config = spec.config
        layout = run_layout(folder, spec)
        clock = SystemClock()
        self._metrics = Metrics()
        self._attention = AttentiveClock(clock, on_stall=self._metrics.stalls.inc)
        self._admission = Admission.of(
            config.server,
            clock,
            random.Random(),  # noqa: S311 -- no secret
            lambda: self._attention.late_seconds,
        )
        self._disk = ThreadPoolExecutor(_NUM_DISK_THREADS, "disk")
        uploads = Uploads(folder.staging, places=self._admission.uploads, disk=self._disk)
        states = States(
            folder=folder.state,
            exports=folder.exports,
            damaged=folder.damaged,
            anchor=ledger.anchor(),
            seed=lambda: _seed_state(spec, layout),
        )
        receipts = ReceiptSigner.load(folder.receipt_key, spec)
        swept = sweep(folder, ledger=ledger, blobs=blobs, states=states, spec=spec, uploads=uploads)
        self._folder = folder
        self._num_parameters = layout.num_elements
        self._ledger = LedgerThread(ledger, self._metrics.problems)
        self._refusals = RefusalBook(self._metrics, self._ledger)
        workers, actions = ledger.workers(), ledger.actions()
        enrolment = Enrolment(config.enrolment.mode, workers, actions)
        standing = Standing(
            config.screening, ledger.track_records(), lambda worker: enrolment.ban_of(worker, now_ms()) is not None
        )
        self._registry = Registry(
            run_id=spec.run_id,
            ledger=self._ledger,
            workers=workers,
            joins=self._admission.joins,
            standing=standing,
            enrolment=enrolment,
        )
        self._dispatcher = Dispatcher(
            config=config,
            shard_sizes=[entry.num_samples for entry in spec.data.train],
            ledger=self._ledger,
            pool=ledger.pool(),
            clock=clock,
            attention=self._attention,
            chance=random.SystemRandom(),
        )
        self._show_numbers()
        self._versions = Versions(
            config=config,
            layout=layout,
            blobs=blobs,
            states=states,
            history=history,
            counted_of=ledger.counted,
        )
        self._recovery = report(ledger, self._versions.loaded, swept)
        look_for_losses(folder, ledger=ledger, blobs=blobs, spec=spec, problems=self._metrics.problems)
        self._checkpoints = Checkpoints(
            folder=folder.checkpoints,
            spec=spec,
            ledger=self._ledger,
            signatures=Signatures(
                folder=folder, release_key=config.release.public_key, problems=self._metrics.problems
            ),
        )
        self._exporter = Exporter(
            spec=spec,
            folder=folder,
            layout=layout,
            versions=self._versions,
            checkpoints=self._checkpoints,
            ledger=self._ledger,
            problems=self._metrics.problems,
        )
        self._judge = Judge(
            spec=spec,
            folder=folder,
            ledger=self._ledger,
            metrics=self._metrics,
            exported=self._exporter.exported,
            off=why_not(spec, has_pictures=folder.pictures.is_dir()),
        )
        self._second_opinions = SecondOpinions(
            config=config, num_elements=layout.num_elements, blobs=blobs, ledger=self._ledger
        )
        self._round_screening = RoundScreening(
            config=config,
            num_elements=layout.num_elements,
            blobs=blobs,
            ledger=self._ledger,
            dispatcher=self._dispatcher,
            standing=standing,
            metrics=self._metrics,
        )
        self._intake = Intake(
            expected=Expected(
                config.codec.delta, layout.num_elements, config.codec.feedback, config.audit.shown_leaves
            ),
            uploads=uploads,
            blobs=blobs,
            dispatcher=self._dispatcher,
            round_screening=self._round_screening,
            receipts=receipts,
            metrics=self._metrics,
        )
        self._judgements = Judgements(folder=folder.judgements, run_id=spec.run_id, ledger=self._ledger)
        self._leases = PublicLeases(
            run_id=spec.run_id,
            codec=config.codec.delta,
            versions=self._versions,
            ledger=self._ledger,
            clock=clock,
        )
        self._elsewhere = read_elsewhere(folder.elsewhere)
        self._keeper = self._open_keeper()
        disk = Disk(folder, blobs, states, self._checkpoints, self._metrics.problems)
        quota_bytes = int((config.storage.quota_gib if quota_gib is None else quota_gib) * GIB)
        housekeeper = Housekeeper(
            quota_bytes=quota_bytes,
            disk=disk,
            spec=spec,
            versions=self._versions,
            intake=self._intake,
            ledger=self._ledger,
        )
        self._storage = StorageWatch(
            folder=folder,
            config=config,
            quota_bytes=quota_bytes,
            versions=self._versions,
            ledger=self._ledger,
            problems=self._metrics.problems,
        )
        self._rounds = Rounds(
            Parts(
                config=config,
                dispatcher=self._dispatcher,
                screening=self._round_screening,
                second_opinions=self._second_opinions,
                versions=self._versions,
                exporter=self._exporter,
                housekeeper=housekeeper,
                ledger=self._ledger,
                metrics=self._metrics,
                announce=self._keeper.announce,
            )
        )
        self._operator = Operator(
            ledger=self._ledger,
            enrolment=enrolment,
            registry=self._registry,
            dispatcher=self._dispatcher,
            rounds=self._rounds,
            heard=actions,
        )
        self._gate = Gate(
            section=config.gate,
            evaluated=self._exporter.evaluated,
            versions=self._versions,
            ledger=self._ledger,
            operator=self._operator,
            problems=self._metrics.problems,
        )
        self._alerts = AlertWatch(
            run_id=spec.run_id,
            file=folder.alerts,
            sources=Observed(
                problems=self._metrics.problems,
                ledger=self._ledger,
                versions=lambda: self._versions.history,
                complete=lambda: self._dispatcher.idle_reason == "complete",
                heard=lambda: bool(self._dispatcher.live_workers()),
                resting=lambda: self._operator.draining is not None,
            ),
            clock=clock,
        )
        self._scrubber = Scrubber(
            bytes_per_second=1e6 * config.storage.scrub_mb_per_second,
            disk=disk,
            spec=spec,
            versions=self._versions,
            ledger=self._ledger,
            healer=self._rounds,
        )

    def _show_numbers(self) -> None:
        """What is looked at whenever somebody asks for metrics."""
        self._metrics.waiting.set_function(lambda: self._dispatcher.num_waiting)
        self._metrics.uploads.set_function(lambda: self._admission.uploads.num_taken)

    @property
    def server(self) -> ServerSection:
        """Where the run's config wants it to listen."""
        return self._spec.config.server

    @property
    def version(self) -> int:
        """The newest published version."""
        return self._versions.newest.version

    async def serve(
        self, server: ServerSection, *, stop: asyncio.Event, on_ready: Callable[[str], None], exit_when_complete: bool
    ) -> None:
        """Listen as `server` says until `stop` is set, or the run is complete and its workers know; `on_ready` is told where.

        Raises `PortInUse`, or whatever killed a background task.
        """
        allow_many_files()
        if server.threads:
            torch.set_num_threads(server.threads)
        await self._operator.take_up()
        await self._rounds.resume()  # before anybody can call
        gc.collect()
        gc.freeze()  # the libraries' million objects are for ever: to look through them takes half a second each time
        certificate = choose_certificate(server, self._folder.tls)
        listener = bind(server.host, server.http_port, "server.http_port")
        try:
            grpc_servers, grpc_port = self._listen(server, certificate)
        except PortInUse:
            listener.close()
            raise
        url = _address(server, listener.getsockname()[1], certificate)
        site = self._site(url)
        web = WebServer(self._web_app(grpc_port, certificate, site), certificate)
        for grpc_server in grpc_servers:
            await grpc_server.start()
        _log.info("recovered", **dataclasses.asdict(self._recovery))
        _log.info("coordinator_started", url=url, grpc_port=grpc_port, version=self._versions.newest.version)
        tasks = {
            "attention": asyncio.create_task(self._attention.run()),
            "ledger": asyncio.create_task(self._ledger.keep_seat()),
            "web": asyncio.create_task(web.serve(sockets=[listener])),
            "operator": asyncio.create_task(self._operator.run()),
            "gate": asyncio.create_task(self._gate.run()),
            "rounds": asyncio.create_task(self._rounds.run()),
            "exporter": asyncio.create_task(self._exporter.run()),
            "judge": asyncio.create_task(self._judge.run()),
            "scrubber": asyncio.create_task(self._scrubber.run()),
            "storage": asyncio.create_task(self._storage.run()),
            "refusals": asyncio.create_task(self._refusals.run()),
            "alerts": asyncio.create_task(self._alerts.run(url)),
            "bucket": asyncio.create_task(self._keeper.run()),
        }
        if exit_when_complete:
            tasks["farewell"] = asyncio.create_task(self._farewell(tasks["rounds"]))
        stopping = asyncio.create_task(stop.wait())
        try:
            on_ready(url)
            await self._until_stopped(tasks, stopping)
        finally:
            self._dispatcher.stop()
            await asyncio.gather(*(grpc_server.stop(_STOP_GRACE_SECONDS) for grpc_server in grpc_servers))
            site.stop()
            web.should_exit = True
            for name in tasks.keys() - {"web"}:
                tasks[name].cancel()
            stopping.cancel()
            await asyncio.gather(*tasks.values(), stopping, return_exceptions=True)
            await self._alerts.close()
            site.close()
            await self._refusals.store()
            _log.info("coordinator_stopped", version=self._versions.newest.version)

    def close(self) -> None:
        """Finish what the threads have begun and let go of the files."""
        self._keeper.close()
        self._scrubber.close()
        self._storage.close()
        self._rounds.close()
        self._judge.close()
        self._exporter.close()
        self._intake.close()
        self._round_screening.close()
        self._second_opinions.close()
        self._disk.shutdown(wait=True)
        self._ledger.close()

    @staticmethod
    async def _until_stopped(tasks: dict[str, asyncio.Task[None]], stopping: asyncio.Task[bool]) -> None:
        waiting: set[asyncio.Task[Any]] = {*tasks.values(), stopping}
        while not stopping.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # raises what killed it
            if "farewell" in tasks and tasks["farewell"].done():
                return

    async def _farewell(self, rounds: asyncio.Task[None]) -> None:
        """Until the run is complete, its workers know, who would else look for it for ever, and the last checkpoint is judged."""
        await asyncio.wait([rounds])
        await self._dispatcher.all_told()
        await self._judge.idle()

    def _listen(self, server: ServerSection, certificate: Certificate | None) -> tuple[list[grpc.aio.Server], int]:
        """Servers of one port, to which the kernel deals out the connections; and the port. Raises `PortInUse`."""
        service = CoordinatorService(
            spec=self._spec,
            registry=self._registry,
            dispatcher=self._dispatcher,
            versions=self._versions,
            intake=self._intake,
            refusals=self._refusals,
            admission=self._admission,
        )
        with bind(server.host, server.grpc_port, "server.grpc_port") as socket:  # or another's port might be shared
            port: int = socket.getsockname()[1]
        servers = []
        for _ in range(_NUM_ACCEPTORS):
            most_calls = self._spec.config.server.max_waiting + _OTHER_CALLS
            grpc_server = grpc.aio.server(
                interceptors=[LenientParser()], options=_GRPC_OPTIONS, maximum_concurrent_rpcs=most_calls
            )
            add_CoordinatorServicer_to_server(service, grpc_server)  # type: ignore[no-untyped-call]  # generated
            health_pb2_grpc.add_HealthServicer_to_server(_health.HealthServicer(), grpc_server)
            _add_port(grpc_server, f"{_bracketed(server.host)}:{port}", certificate)
            servers.append(grpc_server)
        return servers, port

    def _site(self, address: str) -> Site:
        """The pages, with a connection to the ledger that only reads, so that none of them keeps the run waiting."""
        sources = Sources(
            spec=self._spec,
            address=address,
            num_parameters=self._num_parameters,
            ledger=LedgerThread(Ledger(self._folder.ledger, read_only=True), self._metrics.problems),
            checkpoints=self._checkpoints,
            judgements=self._judgements,
            standing=self._registry.standing,
            admission=self._admission,
            live=self._live,
            at_work=self._dispatcher.at_work,
            waiting=lambda: self._dispatcher.num_waiting,
            disk=lambda: disk_now(self._storage.latest),
            next_round=lambda: self._versions.newest.version + 1,
        )
        return Site(sources, SystemClock())

    def _web_app(self, grpc_port: int, certificate: Certificate | None, site: Site) -> Any:
        info = RunInfo(
            run_id=self._spec.run_id,
            run=self._spec.config.run.name,
            title=self._spec.config.run.title,
            protocol_version=PROTOCOL_VERSION,
            software=__version__,
            grpc_port=grpc_port,
            spec_sha256=self._spec.sha256,
            num_parameters=self._num_parameters,
            receipt_key=self._spec.receipt_key,
            certificate="" if certificate is None else certificate.own_pem,
            mirrors=self._elsewhere.mirrors,
        )
        return web_app(
            info=info,
            status=self._status,
            blobs=self._blobs,
            shown=Shown(self._checkpoints, self._judgements, self._leases, site, self._desk(site, certificate)),
            metrics=self._metrics,
            admission=self._admission,
            leads_to=self._keeper.leads_to,
        )

    def _open_keeper(self) -> Keeper | Nowhere:
        """Raises `ConfigError` if the store's library is missing."""
        folder, versions = self._folder, self._versions
        if not self._elsewhere.bucket:
            return Nowhere()
        return Keeper(
            bucket=Bucket(self._elsewhere, self._spec.run_id),
            leads_on=self._elsewhere.leads_on,
            look=lambda: public_files(folder, self._spec, list(versions.history)),
            blobs=folder.blobs,
            metrics=self._metrics,
            stays_here=self._spec.sha256,  # small, and asked for by who has pinned the run's certificate and knows no other
        )

    def _desk(self, site: Site, certificate: Certificate | None) -> Desk:
        entrance = Entrance(
            secure=certificate is not None or self._spec.config.server.tls is Tls.PROXY,
            addresses=self._admission.addresses,
            clock=SystemClock(),
        )
        return Desk(
            folder=self._folder,
            renderer=site.renderer,
            live=self._live,
            storage=lambda: self._storage.latest,
            entrance=entrance,
        )

    async def _status(self) -> dict[str, Any]:
        durable = await self._ledger.run(read_status)
        return {
            **dataclasses.asdict(durable),
            "total_images": self._spec.config.run.total_images,
            "held_out_loss": durable.held_out_loss,
            "draining": told(self._operator.draining),
            "storage": None if self._storage.latest is None else dataclasses.asdict(self._storage.latest),
            "live": dataclasses.asdict(self._live()),
        }

    def _live(self) -> LiveStatus:
        return live_status(
            self._dispatcher,
            self._registry.names(),
            self._metrics,
            judging=self._judge.status,
            recovery=self._recovery,
            actions=self._operator.done,
            complete=self._dispatcher.idle_reason == "complete",
        )


def _seed_state(spec: RunSpec, layout: Layout) -> RunState:
    """Version 0, made as it was at first."""
    config = spec.config
    model = build_model(config.model, config.objective, spec.tokenizer.encode(), config.run.seed)
    return RunState.initial(config, layout.flatten(model))


def _address(server: ServerSection, port: int, certificate: Certificate | None) -> str:
    """What volunteers are told."""
    host = _bracketed(server.name or server.host)
    if certificate is None:
        return f"{'https' if server.tls is Tls.PROXY else 'http'}://{host}:{port}"
    return with_pin(f"https://{host}:{port}", certificate.pin)


def _add_port(grpc_server: grpc.aio.Server, place: str, certificate: Certificate | None) -> None:
    if certificate is None:
        grpc_server.add_insecure_port(place)
        return
    pair = (certificate.key.read_bytes(), certificate.chain.read_bytes())
    grpc_server.add_secure_port(place, grpc.ssl_server_credentials([pair]))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
