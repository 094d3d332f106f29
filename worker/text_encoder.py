"""The run's frozen text encoder on this machine: fetched as blobs, loaded to encode captions, and gone again while it trains.

It computes in fp32 on the device where the memory plan leaves room for it, else on the host.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import torch
from torch import Tensor

from diffusion_at_home import events
from diffusion_at_home.frozen_text import EncoderFile, FrozenText, linked_folder
from diffusion_at_home.host_heap import give_back_heap
from diffusion_at_home.model.build import model_family
from diffusion_at_home.runspec import RunSpec
from worker.blobs import BlobFetcher, BlobRef
from worker.step.out_of_memory import give_back_memory, is_out_of_memory
from worker.stop import Interrupted

if TYPE_CHECKING:
    from diffusion_at_home.model.frozen import FrozenEncoder

ResultT = TypeVar("ResultT")

_CPU: Final = torch.device("cpu")
_log = events.logger("worker")

Encode = Callable[[Sequence[str]], list[Tensor]]
"""For each caption the embeddings of its tokens, (L, D), in bf16."""


class RunTextEncoder:
    """Of one run."""

    def __init__(self, spec: RunSpec, text: FrozenText, blobs: BlobFetcher, device: Callable[[], torch.device]) -> None:
        """`text` is the one of `spec`; `device` is asked for a place to compute whenever the encoder is loaded."""
        self._model = spec.config.model
        self._files = text.files
        self._blobs = blobs
        self._device = device
        self._too_large_for_device = False

    def fetch(self, interrupt: threading.Event) -> None:
        """Have its files in the cache. One try: raises as `BlobFetcher.fetch`."""
        for file in self._files:
            if not self._blobs.cached(_blob(file)):
                self._blobs.fetch(_blob(file), interrupt)

    @contextmanager
    def opened(self, interrupt: threading.Event) -> Iterator[Encode]:
        """Within, captions can be encoded; afterwards the encoder takes no memory.

        Raises as `BlobFetcher.have`, and `ConfigError` if this software cannot load it; encoding raises `Interrupted`.
        """
        with ExitStack() as held:
            paths = {file.name: held.enter_context(self._blobs.have(_blob(file), interrupt)) for file in self._files}
            folder = held.enter_context(linked_folder(self._files, lambda file: paths[file.name]))
            section = self._model.text.model_copy(update={"encoder": str(folder)})
            model = self._model.model_copy(update={"text": section})
            encoder = model_family(model.kind).frozen_encoder(model)
            try:
                yield lambda captions: self._encode(encoder, captions, interrupt)
            finally:
                encoder.forget()
                give_back_memory()
                give_back_heap()

    def _encode(self, encoder: FrozenEncoder, captions: Sequence[str], interrupt: threading.Event) -> list[Tensor]:
        device = _CPU if self._too_large_for_device else self._device()
        rows, too_large = with_room(lambda place: _rows(encoder, captions, place, interrupt), device)
        if too_large:
            self._too_large_for_device = True
            _log.warning("out_of_memory", plan="captions on the device", next_plan="captions on the host")
        return rows


def with_room(compute: Callable[[torch.device], ResultT], device: torch.device) -> tuple[ResultT, bool]:
    """What `compute` makes on `device`, or on the host if the device has no memory left; and whether that was so."""
    try:
        return compute(device), False
    except Exception as error:  # whatever it is, it is raised again unless memory ran out
        if device == _CPU or not is_out_of_memory(error):
            raise
    give_back_memory()
    return compute(_CPU), True


def _rows(
    encoder: FrozenEncoder, captions: Sequence[str], device: torch.device, interrupt: threading.Event
) -> list[Tensor]:
    rows: list[Tensor] = []
    for row in encoder.rows(captions, device):
        rows.append(row.to(torch.bfloat16))
        if interrupt.is_set():
            raise Interrupted
    return rows


def _blob(file: EncoderFile) -> BlobRef:
    return BlobRef(file.sha256, file.size_bytes)
