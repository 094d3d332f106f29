"""Work that is real: a simulated volunteer's lease is trained as a worker trains it, in a thread of this process.

Each volunteer has a replica, a model and a trainer of its own; the blobs they fetch are cached once for all.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Final

from simulator.deltas import Encoded, contained
from simulator.fleet import Fleet
from simulator.work import Product

from diffusion_at_home.clock import SystemClock
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.build import build_model
from diffusion_at_home.rpc import coordinator_pb2 as pb
from diffusion_at_home.wire.layout import Layout
from diffusion_at_home.wire.vector import encode_chunks
from worker.backoff import Backoff
from worker.blobs import BlobCache, BlobFetcher
from worker.grant import Grant, GrantReader
from worker.http_line import open_http
from worker.pacer import Pacer
from worker.patience import Patience
from worker.replica import Replica
from worker.samples import LeaseSamples
from worker.step.compute import CPU
from worker.step.one_device import OneDevice
from worker.trainer import LeaseTrainer

_CACHE_BYTES: Final = 2**30


class Trained:
    """See `Work`. Close it after the fleet has gone."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        """`folder` is for blobs."""
        self._opened = ExitStack()
        spec = fleet.run.spec
        self._config = spec.config
        self._tokenizer = spec.tokenizer.encode()
        self._layout = Layout.of(self._model())
        self._blobs = BlobFetcher(
            address=fleet.run.address,
            http=self._opened.enter_context(open_http()),
            cache=BlobCache(folder, _CACHE_BYTES),
            patience=Patience(Backoff(1.0, 1.0), lambda _: nullcontext()),
            pacer=Pacer(math.inf, SystemClock(), time.sleep),
        )
        self._grants = GrantReader(spec.config, spec.data, self._layout)
        self._samples = [
            LeaseSamples(spec.data, self._blobs, batch_images=spec.config.inner.batch_images, seed=spec.config.run.seed)
            for _ in range(fleet.settings.workers)
        ]
        self._trainers = [
            LeaseTrainer(spec.config, OneDevice(spec.config, self._model(), self._layout, CPU))
            for _ in range(fleet.settings.workers)
        ]
        self._replicas: dict[int, Replica] = {}
        self._threads = ThreadPoolExecutor(fleet.settings.workers, thread_name_prefix="volunteer")
        self._opened.callback(self._threads.shutdown)

    def close(self) -> None:
        """Wait for what still ends, and hang up."""
        self._opened.close()

    def forget(self, number: int) -> None:
        """The weights of one that was killed."""
        self._replicas.pop(number, None)

    async def __call__(
        self, number: int, grant: pb.LeaseGrant, wrap_up: asyncio.Event, on_images: Callable[[int], None]
    ) -> Product:
        """See `Work`."""
        loop, stop = asyncio.get_running_loop(), threading.Event()
        watch = asyncio.create_task(_passes_on(wrap_up, stop))
        replica = self._replicas.setdefault(number, Replica(self._layout, self._config.codec.update, self._blobs))
        try:
            return await loop.run_in_executor(
                self._threads,
                self._train,
                (number, replica, self._grants.read(grant)),
                stop,
                lambda images: loop.call_soon_threadsafe(on_images, images),
            )
        finally:  # also when the volunteer dies
            stop.set()
            watch.cancel()

    def _train(
        self, what: tuple[int, Replica, Grant], stop: threading.Event, on_images: Callable[[int], object]
    ) -> Product:
        number, replica, grant = what

        def on_step(images: int, loss: float) -> None:  # noqa: ARG001
            on_images(images)

        base = replica.bring_to(grant, threading.Event())
        trained = self._trainers[number].train(
            base,
            self._samples[number].batches(grant.ranges, threading.Event()),
            seed=grant.seed,
            learning_rate=grant.learning_rate,
            should_stop=stop.is_set,
            on_step=on_step,
        )
        data = contained(grant.codec, self._layout.num_elements, encode_chunks(grant.codec, trained.delta))
        return Product(Encoded.of(data), trained.images, trained.seconds, trained.mean_loss)

    def _model(self) -> DiffusionModel:
        return build_model(self._config.model, self._config.objective, self._tokenizer, self._config.run.seed)


async def _passes_on(event: asyncio.Event, to: threading.Event) -> None:
    await event.wait()
    to.set()
