"""The auditor's composition root: opens what recomputing needs, chooses leases, and says what it found of each.

Nothing is joined and nobody is told: all comes over HTTP from what the run publishes. A machine that computes wrongly would
accuse others, so it is checked first, as a worker's is.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import httpx2

from diffusion_at_home.audit.records import LeaseRecord
from diffusion_at_home.clock import SystemClock
from diffusion_at_home.errors import ConfigError, HardwareError, IntegrityError, RetryCall
from diffusion_at_home.runspec import RunSpec
from worker.auditor.finding import Finding
from worker.auditor.public_records import PublicRecords
from worker.auditor.recompute import Parts, Recomputer
from worker.backoff import Backoff
from worker.blobs import BlobCache, BlobFetcher
from worker.device import num_devices, open_device
from worker.grant import GrantReader
from worker.http_line import open_http
from worker.memory.planning import WorkPlan, this_machine
from worker.pacer import Pacer
from worker.patience import Patience
from worker.planned_trainer import PlannedTrainer
from worker.replica import Replica
from worker.run_address import RunAddress, fetch_spec, find_run, pins
from worker.run_captions import caption_embeddings
from worker.samples import LeaseSamples
from worker.selftest.devices import require_sound_devices
from worker.settings import WorkerSettings
from worker.state_folder import locked
from worker.step.masters import WeightKind
from worker.step.plan import StepPlan
from worker.steppers import TrainingSite, open_stepper

_MOST_FAILURES: Final = 5
"""In a lease, before the line is given up: whoever audits sits in front of it."""

_LONGEST_PAUSE_SECONDS: Final = 20.0
_MOST_DRAWS: Final = 20
"""For each lease that is wanted: rounds may be without contributions."""

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which leases: all of a round, one, or some at random of all closed rounds."""

    round: int | None = None
    lease: int | None = None
    sample: int = 5


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found."""

    run_id: str
    run_software: str
    """Version of the coordinator's code: other code may train otherwise."""
    findings: tuple[Finding, ...]


def audit_run(
    url: str,
    choice: Choice,
    settings: WorkerSettings,
    on_finding: Callable[[Finding], None],
    require_sound: Callable[[WorkerSettings], None] = require_sound_devices,
) -> Audit:
    """Recompute what `choice` says of the run at `url`; `on_finding` is told of each contribution.

    Raises `RetryCall` where nobody answers, `ConfigError`, `IntegrityError`, `HardwareError`, `StorageError`, `VersionMismatch`.
    """
    require_sound(settings)
    with ExitStack() as opened:
        auditor = Auditor(RunAddress.parse(url), settings, opened)
        records = auditor.choose(choice)
        findings = []
        for record in sorted(records, key=lambda one: (one.base_version, one.lease_id)):  # each base leads to the next
            findings.append(auditor.check(record))
            on_finding(findings[-1])
        return Audit(auditor.run_id, auditor.run_software, tuple(findings))


class Auditor:
    """Of one run."""

    def __init__(self, address: RunAddress, settings: WorkerSettings, opened: ExitStack) -> None:
        """What has to be closed is put into `opened`."""
        folder = settings.cache_dir / "audit"
        opened.enter_context(locked(folder / "lock", "wait for it or set another cache_dir"))
        http = opened.enter_context(open_http(pins([address])))
        self._never = threading.Event()
        self._tries = _Tries(_MOST_FAILURES)
        self._patience = Patience(Backoff(1.0, _LONGEST_PAUSE_SECONDS), self._tries.waiting)
        info = self._patiently(lambda: find_run(address, http))
        self.run_id = info.run_id
        spec = self._patiently(lambda: fetch_spec(address, http, info))
        if spec.run_id != info.run_id:
            raise IntegrityError(f"{address.url} serves the specification of {spec.run_id} for {info.run_id}")
        self._public = PublicRecords(address, http, spec.run_id)
        parts = self._wire(spec, address, http, settings, folder, opened)
        self.recomputer = Recomputer(parts, self._never)

    @property
    def run_software(self) -> str:
        """See `Audit.run_software`."""
        return self._public.software

    def choose(self, choice: Choice) -> list[LeaseRecord]:
        """The leases to recompute. Raises `ConfigError` if there is no such one."""
        if choice.lease is not None:
            lease_id = choice.lease
            return [self._patiently(lambda: self._public.lease(lease_id))]
        if choice.round is not None:
            return self._round(choice.round)
        return self._draw(choice.sample)

    def check(self, record: LeaseRecord) -> Finding:
        """Recompute one. Raises as `audit_run`."""
        base = self._patiently(lambda: self._public.version(record.base_version))
        self._tries.again()
        return self.recomputer.check(record, base)

    # -- inside -------------------------------------------------------------------------------------------------

    def _round(self, number: int) -> list[LeaseRecord]:
        return self._patiently(lambda: list(self._public.round(number)))

    def _draw(self, count: int) -> list[LeaseRecord]:
        """Some at random, each round as likely as any other, and each lease of a round."""
        newest = self._patiently(self._public.closed_rounds)
        if newest == 0:
            raise ConfigError("no round of this run is closed yet: there is nothing to audit")
        chance = random.SystemRandom()
        rounds: dict[int, Sequence[LeaseRecord]] = {}
        drawn: dict[int, LeaseRecord] = {}
        for _ in range(_MOST_DRAWS * count):
            number = chance.randint(1, newest)
            if number not in rounds:
                rounds[number] = self._round(number)
            left = [record for record in rounds[number] if record.lease_id not in drawn]
            if left:
                record = chance.choice(left)
                drawn[record.lease_id] = record
            if len(drawn) == count:
                break
        return list(drawn.values())

    def _wire(
        self,
        spec: RunSpec,
        address: RunAddress,
        http: httpx2.Client,
        settings: WorkerSettings,
        folder: Path,
        opened: ExitStack,
    ) -> Parts:
        config, tokenizer_json = spec.config, spec.tokenizer.encode()
        compute = open_device(settings)
        machine = this_machine(compute, num_devices(settings), settings)
        blobs = BlobFetcher(
            address=address,
            http=http,
            cache=BlobCache(folder / "blobs", settings.cache_bytes),
            patience=self._patience,
            pacer=Pacer(settings.down_bytes_per_second, SystemClock(), self._never.wait),
        )
        plan = WorkPlan(config, tokenizer_json, machine, folder / "plans")
        site = TrainingSite(config, tokenizer_json, compute, settings)
        layout = site.layout()
        trainer = PlannedTrainer(config, plan, lambda step: open_stepper(site, layout, step), require_exact_weights)
        opened.callback(trainer.close)
        embeddings = caption_embeddings(
            spec,
            blobs,
            machine=machine,
            plan=plan,
            compute=compute,
            fetch=lambda encoder: self._patiently(lambda: encoder.fetch(self._never)),
        )
        return Parts(
            spec=spec,
            site=site,
            layout=layout,
            blobs=blobs,
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
        )

    def _patiently(self, attempt: Callable[[], ResultT]) -> ResultT:
        self._tries.again()
        return self._patience.call(attempt, self._never)


def require_exact_weights(plan: StepPlan) -> None:
    """Raises `HardwareError` for a plan that rounds weights at random: what it comes to is too far from everybody's."""
    if plan.weights is WeightKind.STOCHASTIC:
        raise HardwareError(
            "this device has memory only for weights that are rounded at random, by which nobody can be judged: "
            "audit with --device cpu, or on a larger card"
        )


class _Tries:
    """Ends a patience that would wait for ever."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._failures = 0

    def again(self) -> None:
        """Count from nothing."""
        self._failures = 0

    @contextmanager
    def waiting(self, why: RetryCall) -> Iterator[None]:
        """See `Patience`. Raises `why` once it is too often."""
        self._failures += 1
        if self._failures > self._most:
            raise why
        yield
