"""The worker's main loop: lease, pull, train, push. Owns no connection, file or signal; see `worker.daemon` for those.

One lease at a time, from grant to receipt, on the main thread; beside it run the lease keeper's heartbeats and the
prefetcher. What ends a lease early is a `LeaseLost` with a named reason, counted, and the lease is given back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

import torch
from torch import Tensor

from diffusion_at_home import PROTOCOL_VERSION, events
from diffusion_at_home.clock import Clock
from diffusion_at_home.errors import DahError, HardwareError, LeaseLost, RetryCall
from diffusion_at_home.refusals import LEFT_OUT, short_name
from diffusion_at_home.rpc.coordinator_pb2 import Idle, LeaseReply, LeaseRequest, LeftOut, ReleaseRequest
from worker.background import Background
from worker.backoff import Backoff
from worker.conditions.throttle import Throttle
from worker.grant import Grant, GrantReader, LeaseId
from worker.lease_keeper import LeaseKeeper
from worker.outbox import Contribution, Outbox
from worker.pace import Pace
from worker.patience import Patience
from worker.planned_trainer import PlannedTrainer
from worker.prefetch import Prefetcher
from worker.progress import Progress, WorkerState
from worker.replica import Replica
from worker.residual import Residual
from worker.samples import LeaseSamples
from worker.sender import Sender, Sent
from worker.session import Session
from worker.stop import Interrupted, StopSignal
from worker.trainer import Batch, Trained
from worker.why_idle import COMPLETE, why_idle

_WAIT_MS: Final = 20_000
"""How long one Lease call waits for work."""

_SHORTEST_IDLE_SECONDS: Final = 0.05
_LONGEST_IDLE: Final = timedelta(hours=1)

_LOST_FLOOR_SECONDS: Final = 1.0
"""Longest pause when a second lease in a row was lost."""

_log = events.logger("worker")


@dataclass(frozen=True, slots=True)
class Goal:
    """When to stop unasked; None is never."""

    leases: int | None = None
    """Receipts."""
    images: int | None = None
    """Images credited."""

    def reached(self, leases: int, images: int) -> bool:
        """Whether that is enough."""
        return (self.leases is not None and leases >= self.leases) or (
            self.images is not None and images >= self.images
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The loop's collaborators."""

    session: Session
    grants: GrantReader
    replica: Replica
    samples: LeaseSamples
    trainer: PlannedTrainer
    residual: Residual
    outbox: Outbox
    sender: Sender
    prefetcher: Prefetcher
    patience: Patience
    progress: Progress
    stop: StopSignal
    clock: Clock
    pace: Pace
    throttle: Throttle


class WorkerLoop:
    """Works until it is asked to end, its goal is reached or the run is complete."""

    def __init__(self, parts: Parts, *, goal: Goal, batch_images: int, backoff: Backoff) -> None:
        self._parts = parts
        self._goal = goal
        self._batch_images = batch_images
        self._backoff = backoff
        self._held: LeaseId | None = None
        self._lost_in_a_row = 0
        self._complete = False

    def run(self) -> str:
        """See the class. Returns why there is nothing more to do; empty if it was only asked to end.

        Raises what ends the process, `LeaveRun` and `StopProcess`, and `RunChanged`.
        """
        prefetcher, stop = self._parts.prefetcher, self._parts.stop
        with Background("prefetch", prefetcher.run, stop.request):
            try:
                self._send_what_is_left()
                while not stop.no_more.is_set() and not self._why_over():
                    self._one_lease()
            except Interrupted:  # nothing is held, or it waits in the outbox behind a dead line
                pass
            except Exception as error:  # raised again; the lease goes to somebody else at once
                self._release("out_of_memory" if isinstance(error, HardwareError) else "failed")
                raise
        return self._why_over()

    def _one_lease(self) -> None:
        try:
            grant = self._lease()
            if grant is None:
                return
            with self._kept(grant) as keeper:
                base = self._pull(grant, keeper)
                trained = self._train(grant, base, keeper)
                self._push(grant, trained, keeper)
        except LeaseLost as lost:
            self._give_up(lost)

    def _lease(self) -> Grant | None:
        """A grant, or None after the wait that the coordinator asked for."""
        parts = self._parts
        parts.progress.enter(WorkerState.WAITING, "asking for work")
        request = LeaseRequest(
            protocol_version=PROTOCOL_VERSION,
            images_per_second=self._parts.pace.images_per_second,
            held_version=parts.replica.held_version,
            has_weights=parts.replica.has_weights,
            wait_ms=_WAIT_MS,
        )
        reply = parts.patience.call(lambda: self._ask(request), parts.stop.no_more)
        self._hear(reply.left_out)
        if reply.WhichOneof("outcome") != "grant":
            self._idle(reply.idle)
            return None
        self._held = LeaseId(reply.grant.lease_id)
        grant = parts.grants.read(reply.grant)
        parts.progress.granted(grant.base_version, grant.quota_images)
        parts.prefetcher.want(grant.upcoming)
        return grant

    def _ask(self, request: LeaseRequest) -> LeaseReply:
        reply = self._parts.session.lease(request, self._parts.stop.no_more)
        if reply.WhichOneof("outcome") is None:
            raise RetryCall("the coordinator's answer is empty")
        return reply

    def _hear(self, left_out: Iterable[LeftOut]) -> None:
        """What did not count in its round, although it has its receipt."""
        for one in left_out:
            known = one.reason in LEFT_OUT
            self._parts.progress.left_out(short_name(one.reason) if known else "unknown")
            sentence = (
                LEFT_OUT[one.reason] if known else "the coordinator gives a reason that this software does not know"
            )
            _log.warning("contribution_left_out", lease=one.lease_id, round=one.round, reason=sentence)

    @contextmanager
    def _kept(self, grant: Grant) -> Iterator[LeaseKeeper]:
        """Within, heartbeats keep the lease, and a request to end wraps it up."""
        parts = self._parts
        lead_seconds = 1.5 * self._parts.pace.push_seconds + self._parts.pace.step_seconds(self._batch_images)
        keeper = LeaseKeeper(grant, send=parts.session.heartbeat, clock=parts.clock, lead_seconds=lead_seconds)
        with parts.stop.also_sets(keeper.wrap_up), Background("lease keeper", keeper.run, keeper.wrap_up.set):
            yield keeper

    def _pull(self, grant: Grant, keeper: LeaseKeeper) -> Tensor:
        """The base weights."""
        progress, what = self._parts.progress, f"weights of version {grant.base_version}"
        progress.enter(WorkerState.FETCHING, what)
        self._parts.residual.starts_from(grant.base_version)
        try:
            return self._parts.replica.bring_to(
                grant, keeper.wrap_up, lambda: progress.enter(WorkerState.APPLYING, what)
            )
        except Interrupted:
            raise self._nothing_trained(keeper) from None

    def _train(self, grant: Grant, base: Tensor, keeper: LeaseKeeper) -> Trained:
        progress = self._parts.progress
        progress.enter(WorkerState.FETCHING, "shards")

        def on_step(images: int, loss: float) -> None:
            keeper.trained(images)
            progress.trained(images, loss)
            self._parts.throttle.after_step(keeper.wrap_up.wait)

        def batches() -> Iterator[Batch]:
            for batch in self._parts.samples.batches(grant.ranges, keeper.wrap_up):
                progress.training()
                self._parts.throttle.before_step()
                yield batch

        try:
            self._parts.samples.prepare(
                grant.ranges,
                keeper.wrap_up,
                self._parts.stop.event,
                lambda shards: progress.enter(WorkerState.ENCODING, f"the captions of {shards} shards"),
            )
        except Interrupted:
            raise self._nothing_trained(keeper) from None
        trained = self._parts.trainer.train(
            base,
            batches,
            seed=grant.seed,
            learning_rate=grant.learning_rate,
            should_stop=keeper.wrap_up.is_set,
            on_step=on_step,
        )
        if trained.images == 0 or self._parts.stop.at_once.is_set():
            raise self._nothing_trained(keeper)
        self._parts.pace.trained(trained.images, trained.seconds)
        progress.measured(self._parts.pace.images_per_second)
        return trained

    def _push(self, grant: Grant, trained: Trained, keeper: LeaseKeeper) -> None:
        keeper.raise_if_over()
        if not all(bool(torch.isfinite(edge)) for edge in torch.aminmax(trained.delta)):  # without a mask as large
            raise LeaseLost("training went to infinity or not-a-number", "not_finite")
        self._parts.progress.enter(WorkerState.ENCODING, f"{trained.images} images")
        started_at = self._parts.clock.now()
        contribution = self._parts.outbox.put(grant.lease_id, grant.terms.sha256, trained, grant.codec)
        encode_seconds = self._parts.clock.now() - started_at
        self._parts.progress.enter(WorkerState.SENDING, f"{trained.images} images")
        sent = self._send(contribution)
        self._held, self._lost_in_a_row = None, 0
        self._parts.pace.pushed(encode_seconds + sent.seconds)

    def _send(self, contribution: Contribution) -> Sent:
        sent = self._parts.sender.send(contribution, self._parts.stop)
        receipt = sent.receipt.received
        self._parts.progress.credited(receipt.images)
        _log.info(
            "contribution_received",
            lease=contribution.lease_id,
            round=receipt.round,
            images=receipt.images,
            loss=contribution.mean_loss,
            images_per_second=self._parts.pace.images_per_second,
            train_ms=contribution.train_ms,
            size_bytes=contribution.size_bytes,
        )
        return sent

    def _send_what_is_left(self) -> None:
        """What an earlier process trained and could not hand in may still count."""
        for contribution in self._parts.outbox.recover():
            self._parts.progress.enter(WorkerState.SENDING, "what the last start left")
            try:
                self._send(contribution)
            except LeaseLost as lost:
                self._parts.progress.lost(lost.reason)
                _log.warning("leftover_refused", lease=contribution.lease_id, reason=lost.reason)

    def _idle(self, idle: Idle) -> None:
        self._complete = idle.reason == Idle.REASON_COMPLETE
        if not self._complete:
            self._parts.progress.enter(WorkerState.WAITING, why_idle(idle))
            asked = min(timedelta(milliseconds=idle.retry_after_ms), _LONGEST_IDLE)
            self._parts.stop.no_more.wait(max(self._backoff.named_seconds(asked), _SHORTEST_IDLE_SECONDS))

    def _nothing_trained(self, keeper: LeaseKeeper) -> LeaseLost:
        """Why a lease ends and nothing is handed in; raises what the keeper knows better."""
        keeper.raise_if_over()
        if self._parts.stop.requested:
            return LeaseLost("the worker stops", "stopping")
        return LeaseLost("the round closes before a step could be trained", "no_time")

    def _give_up(self, lost: LeaseLost) -> None:
        """Count it, give the lease back, and pause if it keeps happening."""
        lease = self._held
        self._release(lost.reason)
        if lost.reason == "stopping":
            return
        self._parts.progress.lost(lost.reason)
        _log.warning("lease_lost", lease=lease, reason=lost.reason, sentence=str(lost))
        self._lost_in_a_row += 1
        if self._lost_in_a_row > 1:
            self._parts.progress.enter(WorkerState.WAITING, f"the last {self._lost_in_a_row} leases were lost: {lost}")
            backoff = replace(self._backoff, floor_seconds=_LOST_FLOOR_SECONDS)
            self._parts.stop.no_more.wait(backoff.seconds(self._lost_in_a_row - 1))

    def _release(self, reason: str) -> None:
        """Give back what is held, if anything; one try, as it would run out anyway."""
        lease, self._held = self._held, None
        if lease is None:
            return
        try:
            self._parts.session.release(
                ReleaseRequest(protocol_version=PROTOCOL_VERSION, lease_id=lease, reason=reason[:64])
            )
        except DahError as error:
            _log.info("release_failed", lease=lease, reason=str(error))

    def _why_over(self) -> str:
        """Why no further lease will ever be asked for; empty while one may be."""
        status = self._parts.progress.status
        if self._complete:
            return COMPLETE
        if self._goal.reached(status.leases_done, status.images_total):
            return "its goal is reached"
        return ""
