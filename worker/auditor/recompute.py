"""Trains a lease again from its public record, and compares what comes out with what was handed in.

Everything that came over the wire is checked as a worker checks its own lease: a grant against the run's specification, blobs
against their sha256, weights against their digest. Writes nothing but caches.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from diffusion_at_home.audit.agreement import Agreement, agreement
from diffusion_at_home.audit.records import LeaseRecord, StepKind, StepRecord, VersionRecord
from diffusion_at_home.audit.residual import Commitment, Misfit, ShownLeaf, Terms, check_shown, leaf_of, num_leaves
from diffusion_at_home.audit.shown import MAX_SHOWN_BYTES, read_shown
from diffusion_at_home.audit.tolerances import full_steps, tolerances
from diffusion_at_home.config.run import Codec
from diffusion_at_home.errors import LeaseLost
from diffusion_at_home.identity import Handed, contribution_is_signed, worker_id
from diffusion_at_home.kept_weights import KeptWeights
from diffusion_at_home.rpc import coordinator_pb2 as pb
from diffusion_at_home.runspec import RunSpec
from diffusion_at_home.wire.chunk import DecodeError
from diffusion_at_home.wire.codecs import chunk_codec
from diffusion_at_home.wire.layout import Layout
from diffusion_at_home.wire.vector import CHUNK_ELEMENTS, VectorReader, size_bounds
from worker.auditor.finding import Finding, Outcome
from worker.blobs import BlobFetcher, BlobRef
from worker.grant import Grant, GrantReader
from worker.planned_trainer import PlannedTrainer
from worker.replica import Replica
from worker.samples import LeaseSamples
from worker.steppers import TrainingSite
from worker.trainer import Trained

_KINDS: Final = {StepKind.SNAPSHOT: pb.Blob.KIND_SNAPSHOT, StepKind.UPDATE: pb.Blob.KIND_UPDATE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a worker trains with, and an auditor too."""

    spec: RunSpec
    site: TrainingSite
    layout: Layout
    blobs: BlobFetcher
    grants: GrantReader
    replica: Replica
    samples: LeaseSamples
    trainer: PlannedTrainer


class Recomputer:
    """Of one run, on this machine."""

    def __init__(self, parts: Parts, interrupt: threading.Event) -> None:
        """`interrupt` ends whatever waits, with `Interrupted`."""
        self.parts = parts
        self._interrupt = interrupt
        self._delta_codec = parts.spec.config.codec.delta
        self._feedback = parts.spec.config.codec.feedback

    def check(self, record: LeaseRecord, base: VersionRecord | None) -> Finding:
        """Recompute `record` from `base`, its base version, unless it is void, or cannot be.

        Raises `Interrupted`, `StopProcess`, and `RetryCall` where the line fails for good.
        """
        void = self._why_void(record)
        if void:
            return Finding(record, Outcome.DISAGREES, void)
        impossible = self._why_not(record, base)
        if impossible or base is None:
            return Finding(record, Outcome.UNCHECKED, impossible)
        try:
            trained = self.recompute(record, base)
            if trained.images != record.images:
                return Finding(record, Outcome.DISAGREES, f"{record.images} images are no whole number of steps")
            found = self._compare(record, trained.delta)
        except LeaseLost as lost:
            return Finding(record, Outcome.UNCHECKED, str(lost))
        except Misfit as misfit:
            return Finding(record, Outcome.DISAGREES, f"what was shown of its residual does not fit ({misfit})")
        except DecodeError as error:
            return Finding(record, Outcome.DISAGREES, f"what was handed in cannot be read ({error})")
        return judged(record, found, full_steps(self.parts.spec.config.inner, record.images))

    def recompute(self, record: LeaseRecord, base: VersionRecord) -> Trained:
        """What the lease comes to on this machine, on as many images as `record` says or the end of the step that has them.

        Raises as `check`, and `LeaseLost` where something is not there, or not what the run says of it.
        """
        parts = self.parts
        self._start_from_seed(base)
        grant = self._grant(record, base)
        weights = parts.replica.bring_to(grant, self._interrupt)
        parts.samples.prepare(grant.ranges, self._interrupt, self._interrupt, lambda _shards: None)
        done = 0

        def on_step(images: int, _loss: float) -> None:
            nonlocal done
            done = images

        trained = parts.trainer.train(
            weights,
            lambda: parts.samples.batches(grant.ranges, self._interrupt),
            seed=grant.seed,
            learning_rate=grant.learning_rate,
            should_stop=lambda: done >= record.images,
            on_step=on_step,
        )
        if not all(bool(torch.isfinite(edge)) for edge in torch.aminmax(trained.delta)):
            raise LeaseLost("training it went to infinity or not-a-number on this machine", "not_finite")
        return trained

    # -- inside -------------------------------------------------------------------------------------------------

    def _why_void(self, record: LeaseRecord) -> str:
        """What no honest run would publish of an honest worker, without any training; empty if there is nothing."""
        key = bytes.fromhex(record.public_key)
        if worker_id(key) != record.worker_id:
            return "its worker's id is not that of the public key"
        if record.signature and record.weights is not None and not self._is_signed(record, key, record.weights):
            return "its worker did not sign it, or not for this lease"
        leased = sum(part.count for part in record.ranges)
        if not 0 < record.images <= leased:
            return f"{record.images} images are not 1 to the {leased} that were leased"
        return ""

    def _is_signed(self, record: LeaseRecord, key: bytes, weights: KeptWeights) -> bool:
        handed = Handed(
            run_id=self.parts.spec.run_id,
            lease_id=record.lease_id,
            lease_sha256=record.terms.sha256,
            weights=weights,
            sha256=record.sha256,
            images=record.images,
            residual_before=record.residual_before,
            residual_after=record.residual_after,
        )
        return contribution_is_signed(key, handed, bytes.fromhex(record.signature))

    def _why_not(self, record: LeaseRecord, base: VersionRecord | None) -> str:
        """Why it cannot be recomputed; empty if it can."""
        if not record.signature or record.weights is None:
            return (
                "it was handed in without a signature of all that is published of it, so nobody's word stands behind it"
            )
        if self._feedback and not record.shown_sha256:
            return "error feedback makes it depend on what its worker left out before, of which nothing was shown"
        if record.shown_bytes > MAX_SHOWN_BYTES:
            return (
                f"{record.shown_bytes} bytes are said to have been shown of its residual, which is more than ever are"
            )
        if record.codec is not self._delta_codec:
            return f"it is said to travel as {record.codec}, the run's deltas as {self._delta_codec}"
        lowest, highest = size_bounds(record.codec, self.parts.layout.num_elements)
        if not lowest <= record.size_bytes <= highest:
            return f"it is said to have {record.size_bytes} bytes, which no contribution to this run has"
        if base is None or not base.reachable:
            return f"no way leads to its base version {record.base_version} any more"
        if base.weights_digest != record.base_digest:
            return f"the run contradicts itself about the digest of version {record.base_version}"
        return ""

    def _start_from_seed(self, base: VersionRecord) -> None:
        """Make version 0 as everybody can, where the way begins there and nothing nearer is held."""
        replica, layout = self.parts.replica, self.parts.layout
        if base.from_seed and not (replica.has_weights and replica.held_version <= base.version):
            replica.hold(0, layout.flatten(self.parts.site.model()))

    def _grant(self, record: LeaseRecord, base: VersionRecord) -> Grant:
        """The lease as its worker got it, with what leads to the base from what is held here."""
        message = pb.LeaseGrant(
            lease_id=record.lease_id,
            round=record.round,
            base_version=record.base_version,
            base_digest=record.base_digest,
            catch_up=[_blob(step) for step in self._missing(base)],
            ranges=[
                pb.ShardRange(epoch=part.epoch, shard=part.shard, start=part.start, count=part.count)
                for part in record.ranges
            ],
            seed=record.seed,
            quota_images=sum(part.count for part in record.ranges),
            learning_rate=record.learning_rate,
            codec=record.codec.value,
        )
        return self.parts.grants.read(message)

    def _missing(self, base: VersionRecord) -> list[StepRecord]:
        replica = self.parts.replica
        if replica.has_weights and replica.held_version <= base.version:
            updates = [step for step in base.steps if step.version > replica.held_version]
            if len(updates) == base.version - replica.held_version:
                return updates
        return list(base.steps)

    def _compare(self, record: LeaseRecord, recomputed: Tensor) -> Agreement:
        with self.parts.blobs.open(BlobRef(record.sha256, record.size_bytes), self._interrupt) as view:
            claimed = VectorReader(view, record.codec, len(recomputed))
            if not self._feedback:
                return compare(claimed, record.codec, recomputed)
            shown = self._shown(record)
            commitment = Commitment.from_hex(record.residual_before, record.residual_after)
            return compare_shown(
                shown, claimed, Terms(len(recomputed), record.codec, self._feedback, commitment), recomputed
            )

    def _shown(self, record: LeaseRecord) -> list[ShownLeaf]:
        """Raises `LeaseLost` if it is gone, or fewer than the run asks for, which nobody's worker has to answer for."""
        with self.parts.blobs.open(BlobRef(record.shown_sha256, record.shown_bytes), self._interrupt) as view:
            shown = read_shown(view)
        asked = min(self.parts.spec.config.audit.shown_leaves, num_leaves(self.parts.layout.num_elements))
        if len({leaf.index for leaf in shown}) < max(asked, 1):
            raise LeaseLost(f"fewer than {asked} parts of its residual were shown", "not_shown")
        return shown


def compare(claimed: VectorReader, codec: Codec, recomputed: Tensor) -> Agreement:
    """What was handed in with the recomputed delta, fp32 (n,), as it would have travelled. Raises `DecodeError`."""
    return agreement(_pairs(claimed, codec, recomputed))


def compare_shown(shown: Sequence[ShownLeaf], claimed: VectorReader, terms: Terms, recomputed: Tensor) -> Agreement:
    """What follows from the leaves that were shown with the recomputed delta, fp32 (n,). Raises `Misfit`, `DecodeError`."""
    indices = [leaf.index for leaf in shown]
    if any(index >= num_leaves(terms.num_elements) for index in indices):
        raise Misfit("a leaf that no residual of this run has")
    implied = check_shown(shown, indices, claimed, terms)
    return agreement((delta, leaf_of(recomputed, index)) for delta, index in zip(implied, indices, strict=True))


def _pairs(claimed: VectorReader, codec: Codec, recomputed: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    coder = chunk_codec(codec)
    for index, chunk in enumerate(torch.split(recomputed, CHUNK_ELEMENTS)):
        yield claimed.chunk(index), coder.decode(memoryview(coder.encode(chunk)), len(chunk))


def judged(record: LeaseRecord, found: Agreement, num_full_steps: float) -> Finding:
    """What the figures of a lease of so many full steps mean (see `tolerances`)."""
    is_sampled = bool(record.residual_after)
    allowed = tolerances(record.codec, record.learning_rate, num_full_steps, sampled=is_sampled)
    where = ", in the parts that were shown" if is_sampled else ""
    figures = f"cosine {found.cosine:.4f}, {found.length_ratio:.3f} times as long as what is recomputed here{where}"
    if found.exact:
        return Finding(record, Outcome.AGREES, f"the same numbers, bit for bit{where}", found)
    if allowed.close.allows(found):
        return Finding(record, Outcome.AGREES, f"{figures}, which is rounding", found)
    if record.weights is KeptWeights.ROUNDED and allowed.loose.allows(found):
        words = f"{figures}, which is either its weights, rounded at random to 16 bits, or not quite this lease"
        return Finding(record, Outcome.UNCHECKED, words, found)
    if allowed.doubtful.allows(found):
        return Finding(record, Outcome.UNCHECKED, f"{figures}, which is farther off than honest ones were seen", found)
    return Finding(record, Outcome.DISAGREES, f"{figures}, which no rounding explains", found)


def _blob(step: StepRecord) -> pb.Blob:
    return pb.Blob(
        kind=_KINDS[step.kind],
        version=step.version,
        sha256=step.sha256,
        size_bytes=step.size_bytes,
        weights_digest=step.weights_digest,
    )
