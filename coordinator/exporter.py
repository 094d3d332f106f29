"""Evaluates versions and exports checkpoints beside the rounds.

What is due is a hard link in `exports/` to the version's state file, so it outlives the state's successor and a restart;
the link goes when the result is in the ledger. Both are functions of the version, so doing one twice does no harm.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from torch import Tensor

from coordinator.bell import Bell
from coordinator.checkpoints import Checkpoints
from coordinator.ledger import Ledger
from coordinator.ledger_thread import LedgerThread
from coordinator.lineage import lineage
from coordinator.parts import check_autoencoder
from coordinator.problems import Problems, damaged
from coordinator.records import Checkpoint, Evaluation, Version, Weights, Withdrawn, now_ms
from coordinator.run_folder import RunFolder
from coordinator.text_encoder import own_text_encoder
from coordinator.versions import Versions
from diffusion_at_home import events
from diffusion_at_home.checkpoint.export import CheckpointFacts, Evaluated, export
from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME, Contributor
from diffusion_at_home.config.run import ModelSection, TextEncoderSection
from diffusion_at_home.data.latents import read_latents
from diffusion_at_home.data.manifest import ShardEntry
from diffusion_at_home.data.shards import decode_images, read_shard
from diffusion_at_home.errors import DataError, IntegrityError, StorageError, storage_errors
from diffusion_at_home.evaluation.plot import load_plotting
from diffusion_at_home.host_heap import give_back_heap
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.build import build_model, model_family
from diffusion_at_home.model.evaluation import Pictures, held_out_loss
from diffusion_at_home.outer.state import load_weights
from diffusion_at_home.runspec import RunSpec
from diffusion_at_home.wire.layout import Layout

_EVALUATION_SEED: Final = 0
_RETRY_SECONDS: Final = 30.0
_LOWEST_PRIORITY: Final = 19

_log = events.logger("coordinator")


class Kind(StrEnum):
    """What is due at a version."""

    EVALUATION = "evaluation"
    CHECKPOINT = "checkpoint"
    """Which is evaluated as well."""


@dataclass(frozen=True, slots=True)
class _Due:
    version: Version
    state: Path
    checkpoint: bool


@dataclass(frozen=True, slots=True)
class _Known:
    """What the ledger says of a version, and of what was evaluated so far."""

    contributors: tuple[Contributor, ...]
    evaluations: tuple[Evaluation, ...]


class Exporter:
    """One version at a time, oldest first, in a thread of its own that takes only the time that nobody else wants."""

    def __init__(
        self,
        *,
        spec: RunSpec,
        folder: RunFolder,
        layout: Layout,
        versions: Versions,
        checkpoints: Checkpoints,
        ledger: LedgerThread,
        problems: Problems,
    ) -> None:
        self._spec = spec
        self._folder = folder
        self._layout = layout
        self._versions = versions
        self._checkpoints = checkpoints
        self._ledger = ledger
        self._problems = problems
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="export", initializer=give_way)
        self._changed = Bell()
        self.exported = asyncio.Event()
        """Set when there is a new checkpoint; cleared by who waits for it."""
        self.evaluated = asyncio.Event()
        """The same, of losses."""
        self._held_out: list[Pictures] = []
        with storage_errors(folder.exports):
            folder.exports.mkdir(exist_ok=True)
            folder.checkpoints.mkdir(exist_ok=True)

    async def due_at(self, version: Version, *, final: bool) -> Kind | None:
        """What is due at `version`, the newest one; `final` always ends in a checkpoint."""
        checkpoint = final or self._crossed(version, self._spec.config.checkpoint.every_images)
        evaluation = version.version == 0 or self._crossed(version, self._spec.config.evaluation.every_images)
        if not checkpoint and not evaluation:
            return None
        if await self._ledger.run(_is_done, version.version, checkpoint):
            return None
        return Kind.CHECKPOINT if checkpoint else Kind.EVALUATION

    async def consider(self, version: Version, due: Kind) -> None:
        """Note what is due at `version`, whose state is saved. Raises `StorageError`."""
        link = self._folder.exports / f"{version.version:09d}-{due}.safetensors"
        with storage_errors(link):
            link.unlink(missing_ok=True)
            link.hardlink_to(self._versions.state_file)
        self._changed.ring()

    async def forget_undone(self) -> None:
        """The run went back: what is due of versions that were left behind is not, and their checkpoints are withdrawn."""
        for due in self._all_due():
            if self._versions.is_undone(due.version.version):
                due.state.unlink(missing_ok=True)
        for checkpoint in await self._ledger.run(Ledger.checkpoints):
            if self._versions.is_undone(checkpoint.version):
                await self._withdraw(checkpoint)

    async def run(self) -> None:
        """Do what is due, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = self._due()
            if due is None:
                await self._changed.wait(1.0)
                continue
            try:
                if await self._ledger.run(_is_done, due.version.version, due.checkpoint):
                    due.state.unlink(missing_ok=True)  # a process died between the ledger and this line
                    continue
                known = await self._ledger.run(_known, due.version.version)
                # Not in the thread that gives way to all others: imports hold the interpreter's lock.
                await loop.run_in_executor(None, model_family, self._spec.config.model.kind)
                await loop.run_in_executor(None, load_plotting)
                done = await loop.run_in_executor(self._executor, self._do_if_sound, due, known)
                await loop.run_in_executor(self._executor, give_back_heap)
                if done is not None:
                    await self._ledger.run(Ledger.add_evaluations, done[0])
                    self.evaluated.set()
                    if done[1] is not None:
                        await self._ledger.run(Ledger.add_checkpoint, done[1])
                        if self._versions.is_undone(due.version.version):  # while it was being made
                            await self._withdraw(done[1])
                        self.exported.set()
            except StorageError as error:
                self._problems.not_written("exports", error)
                _log.error("storage_error", error=str(error), retry_seconds=_RETRY_SECONDS)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            except DataError as error:
                self._problems.set(damaged("held_out"), f"nothing can be evaluated or exported: {error}")
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self._problems.written("exports")
            self._problems.clear(damaged("held_out"))
            if done is not None:
                self._problems.clear(damaged(due.state.name))
            due.state.unlink(missing_ok=True)
            self._changed.ring()

    async def idle(self) -> None:
        """Wait until nothing is due."""
        while self._due() is not None:
            await self._changed.wait(0.5)

    def close(self) -> None:
        """Finish what was begun."""
        self._executor.shutdown(wait=True)

    # -- inside -------------------------------------------------------------------------------------------------

    def _crossed(self, version: Version, every_images: int) -> bool:
        """Whether a multiple of `every_images` lies between the version before and this one."""
        if version.version == 0:
            return False
        before = self._versions.history[version.version - 1].images
        return version.images // every_images > before // every_images

    async def _withdraw(self, checkpoint: Checkpoint) -> None:
        await self._ledger.run(Ledger.withdraw, checkpoint.name, Withdrawn.UNDONE)
        self._checkpoints.forget(checkpoint.name)
        folder = self._folder.checkpoints / checkpoint.name
        await asyncio.get_running_loop().run_in_executor(None, lambda: shutil.rmtree(folder, ignore_errors=True))
        _log.warning("checkpoint_withdrawn", name=checkpoint.name, version=checkpoint.version)

    def _curve(self, version: Version, evaluations: Sequence[Evaluation]) -> tuple[Evaluated, ...]:
        """The losses on the way to `version`."""
        way = set(lineage(self._versions.history, version.version))
        points: dict[int, dict[Weights, float]] = {}
        for evaluation in evaluations:
            if evaluation.version in way:
                points.setdefault(evaluation.images, {})[evaluation.weights] = evaluation.mean
        whole = (item for item in sorted(points.items()) if len(item[1]) == len(Weights))
        return tuple(Evaluated(images, losses[Weights.RAW], losses[Weights.EMA]) for images, losses in whole)

    def _went_back_before(self, version: Version) -> bool:
        return any(earlier.back_to is not None for earlier in self._versions.history[: version.version + 1])

    def _due(self) -> _Due | None:
        return next(self._all_due(), None)

    def _all_due(self) -> Iterator[_Due]:
        """The oldest first."""
        for path in sorted(self._folder.exports.glob("*.safetensors")):
            number, _, kind = path.stem.partition("-")
            yield _Due(self._versions.history[int(number)], path, kind == Kind.CHECKPOINT)

    def _do_if_sound(self, due: _Due, known: _Known) -> tuple[list[Evaluation], Checkpoint | None] | None:
        """What is due, or None if its state is damaged, or was let go of: later versions are more worth than this one."""
        try:
            return self._do(due, known)
        except IntegrityError as error:
            if self._versions.is_undone(due.version.version):
                return None  # the run went back meanwhile, and `forget_undone` has deleted what was to be read
            name = due.state.name
            with storage_errors(self._folder.damaged):
                self._folder.damaged.mkdir(exist_ok=True)
                due.state.replace(self._folder.damaged / name)
            self._problems.set(damaged(name), f"version {due.version.version} is not exported: {error}")
            return None

    def _do(self, due: _Due, known: _Known) -> tuple[list[Evaluation], Checkpoint | None]:
        with own_text_encoder(self._spec, self._folder.blobs) as text:
            return self._do_with(text, due, known)

    def _do_with(
        self, text: TextEncoderSection, due: _Due, known: _Known
    ) -> tuple[list[Evaluation], Checkpoint | None]:
        config = self._spec.config
        # Built each time: evaluations are rare, and a model kept would be a quarter of the coordinator's memory.
        model = build_model(self._model_section(text), config.objective, self._spec.tokenizer.encode(), config.run.seed)
        if Layout.of(model).digest != self._layout.digest:
            raise IntegrityError(
                "this software builds another model than the run's: use the software that made the run"
            )
        if due.checkpoint:
            check_autoencoder(self._folder, self._spec)
        weights = dict(zip((Weights.RAW, Weights.EMA), load_weights(due.state), strict=True))
        evaluations = [self._evaluate(model, due.version, which, flat) for which, flat in weights.items()]
        losses = {evaluation.weights: round(evaluation.mean, 5) for evaluation in evaluations}
        _log.info("version_evaluated", version=due.version.version, images=due.version.images, **losses)
        if not due.checkpoint:
            return evaluations, None
        return evaluations, self._export(model, due.version, weights, evaluations, known)

    def _model_section(self, text: TextEncoderSection) -> ModelSection:
        """The run's, with the run's own copy of the autoencoder, and `text`."""
        section = self._spec.config.model.model_copy(update={"text": text})
        if not section.in_latents:
            return section
        latents = section.latents.model_copy(update={"autoencoder": str(self._folder.autoencoder)})
        return section.model_copy(update={"latents": latents})

    def _evaluate(self, model: DiffusionModel, version: Version, which: Weights, flat: Tensor) -> Evaluation:
        self._layout.load(model, flat)
        model.eval()
        section = self._spec.config.evaluation
        loss = held_out_loss(
            model, self._held_out_pictures(), self._spec.config.objective, draws=section.draws, seed=_EVALUATION_SEED
        )
        return Evaluation(version.version, which, version.images, loss.mean, loss.bins)

    def _held_out_pictures(self) -> list[Pictures]:
        """Shard by shard."""
        left = 0 if self._held_out else self._spec.config.evaluation.max_images
        for entry in self._spec.data.held_out:
            if left:
                self._held_out.append(self._held_out_shard(entry, left))
                left -= len(self._held_out[-1].captions)
        return self._held_out

    def _held_out_shard(self, entry: ShardEntry, most: int) -> Pictures:
        """The first `most` samples of a shard; of latents the means."""
        path, data = self._folder.held_out / entry.name, self._spec.data
        if data.latents is not None:
            shard = read_latents(path, entry, data.latents.space)
            texts = shard.texts[:most]
            return Pictures(shard.posterior(range(len(texts))).means_NCHW, [text.caption for text in texts])
        samples = read_shard(path, entry)[:most]
        return Pictures(decode_images(samples, entry.size, data.channels), [sample.caption for sample in samples])

    def _export(
        self,
        model: DiffusionModel,
        version: Version,
        weights: dict[Weights, Tensor],
        evaluations: list[Evaluation],
        known: _Known,
    ) -> Checkpoint:
        best = min(evaluations, key=lambda evaluation: evaluation.mean)
        other = next(evaluation for evaluation in evaluations if evaluation is not best)
        name = f"{self._spec.config.run.name}-{version.images:010d}"
        if self._went_back_before(version):
            name += f"-v{version.version}"  # it may have had as many images before
        created_at_ms = now_ms()
        facts = CheckpointFacts(
            spec=self._spec,
            name=name,
            version=version.version,
            images=version.images,
            weights_digest=version.weights_digest,
            default_weights=best.weights.value,
            held_out_loss={evaluation.weights.value: evaluation.mean for evaluation in evaluations},
            held_out_bins=best.bins,
            contributors=known.contributors,
            evaluated=self._curve(version, [*known.evaluations, *evaluations]),
            rounds=tuple((v.weights_digest, v.update_sha256) for v in self._versions.history[: version.version + 1]),
            created_at_ms=created_at_ms,
        )
        out = self._folder.checkpoints / name
        shutil.rmtree(out, ignore_errors=True)  # left by a process that died before the ledger had it
        manifest = export(
            model, self._layout, default=weights[best.weights], other=weights[other.weights], facts=facts, out=out
        )
        _log.info("checkpoint_exported", name=name, weights=best.weights.value, loss=round(best.mean, 5))
        return Checkpoint(
            name=name,
            version=version.version,
            images=version.images,
            default_weights=best.weights,
            held_out_loss=best.mean,
            size_bytes=sum(entry.size_bytes for entry in manifest.files.values()),
            manifest_sha256=hashlib.sha256((out / MANIFEST_NAME).read_bytes()).hexdigest(),
            created_at_ms=created_at_ms,
        )


def _known(ledger: Ledger, version: int) -> _Known:
    return _Known(_contributors(ledger, version), tuple(ledger.evaluations()))


def give_way() -> None:
    """Put this thread, and the ones that torch starts for it, behind all others: Linux has a priority for each thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)


def _is_done(ledger: Ledger, version: int, checkpoint: bool) -> bool:
    """Whether the ledger has what is due at `version`: a published checkpoint must never be written again."""
    done = {exported.version for exported in ledger.exported()}
    if not checkpoint:
        done |= {record.version for record in ledger.evaluations()}
    return version in done


def _contributors(ledger: Ledger, last_round: int) -> tuple[Contributor, ...]:
    """Who made a version, most images first."""
    names = {worker.worker_id: worker.display_name for worker in ledger.workers()}
    images = ledger.images_by_worker(last_round)
    ranked = sorted(images, key=lambda worker: (-images[worker], worker))
    return tuple(Contributor(worker_id=w, display_name=names[w], images=images[w]) for w in ranked)
