"""The ranks as the daemon sees them: one stepper whose model is cut over several devices.

When a rank dies or fails, all of them are ended, since those that are left wait for it; the next lease starts new ones.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.errors import LeaseLost
from diffusion_at_home.wire.layout import Layout
from worker.ranks.messages import Command, Failed, Job, Loss, Ready, Reply, Start, Step, WriteDelta
from worker.ranks.rank import run_rank
from worker.ranks.vector import SharedVector
from worker.settings import WorkerSettings
from worker.step.plan import StepPlan
from worker.step.stepper import Drawn

_ENDING_SECONDS: Final = 5.0
_SILENCE_SECONDS: Final = 900.0
"""A rank that says nothing for so long is taken for dead; longer than ranks wait for each other."""


class Ranks:
    """See `Stepper`. Ranks are started with the first lease and stay."""

    def __init__(
        self, config: RunConfig, tokenizer_json: bytes, layout: Layout, settings: WorkerSettings, plan: StepPlan
    ) -> None:
        assert plan.sharded
        self._plan = plan
        self._vector = SharedVector(layout.num_elements)
        self._folder = tempfile.TemporaryDirectory(prefix="diffusion-at-home-")
        self._job = Job(
            config=config,
            tokenizer_json=tokenizer_json,
            plan=plan,
            settings=settings,
            vector_path=self._vector.path,
            num_elements=layout.num_elements,
            meeting_path="",
        )
        self._starts = 0
        self._processes: list[SpawnProcess] = []
        self._pipes: list[Connection] = []

    @property
    def plan(self) -> StepPlan:
        """See `Stepper.plan`."""
        return self._plan

    @property
    def process_ids(self) -> list[int]:
        """Of the ranks that run."""
        return [process.pid or 0 for process in self._processes]

    def start(self, base: Tensor, seed: int, learning_rate: float) -> None:
        """See `Stepper.start`. Raises as `step`."""
        self._vector.tensor.copy_(base)
        if not all(process.is_alive() for process in self._processes):
            self._end()
        if not self._processes:
            self._begin()
        self._ask([Start(seed, learning_rate)] * self._plan.devices)

    def step(self, drawn: Drawn) -> float:
        """See `Stepper.step`.

        Raises `LeaseLost` if a rank died or failed, `torch.OutOfMemoryError` if one had no memory left.
        """
        devices, num_images = self._plan.devices, len(drawn.captions)
        replies = self._ask([Step.of(drawn.share(rank, devices), num_images) for rank in range(devices)])
        return sum(reply.value for reply in replies if isinstance(reply, Loss))

    def delta(self) -> Tensor:
        """See `Stepper.delta`. Raises as `step`."""
        self._ask([WriteDelta()] * self._plan.devices)
        return self._vector.tensor

    def close(self) -> None:
        """See `Stepper.close`."""
        self._end()
        self._vector.close()
        self._folder.cleanup()

    def _begin(self) -> None:
        self._starts += 1
        meeting = Path(self._folder.name) / f"meeting-{self._starts}"
        job = replace(self._job, meeting_path=str(meeting))
        context = multiprocessing.get_context("spawn")
        for rank in range(self._plan.devices):
            ours, theirs = context.Pipe()
            process = context.Process(target=run_rank, args=(rank, job, theirs), name=f"rank-{rank}", daemon=True)
            process.start()
            theirs.close()  # so that its end is seen here
            self._processes.append(process)
            self._pipes.append(ours)
        self._answers()

    def _ask(self, commands: Sequence[Command]) -> list[Reply]:
        try:
            for pipe, command in zip(self._pipes, commands, strict=True):
                pipe.send(command)
        except OSError:
            raise self._failure({}) from None
        return self._answers()

    def _answers(self) -> list[Reply]:
        """One of each rank."""
        replies: dict[int, Reply] = {}
        while len(replies) < len(self._pipes):
            silent = [pipe for rank, pipe in enumerate(self._pipes) if rank not in replies]
            ready = wait(silent, timeout=_SILENCE_SECONDS)
            for pipe in ready or silent:
                assert isinstance(pipe, Connection)
                reply = _received(pipe) if ready else None
                if not isinstance(reply, Ready | Loss):
                    raise self._failure(replies | {self._pipes.index(pipe): reply})
                replies[self._pipes.index(pipe)] = reply
        return [replies[rank] for rank in range(len(self._pipes))]

    def _failure(self, replies: Mapping[int, Reply | None]) -> Exception:
        """Ends all ranks, and says what went wrong first: of the others some fail only because one did."""
        said = [
            replies[rank] if rank in replies else (_received(pipe) if pipe.poll(_ENDING_SECONDS) else None)
            for rank, pipe in enumerate(self._pipes)
        ]
        failed = [reply for reply in said if isinstance(reply, Failed)]
        for process, reply in zip(self._processes, said, strict=True):
            if reply is None:
                process.join(_ENDING_SECONDS)
        codes = [process.exitcode for process in self._processes]
        self._end()
        for reply in failed:
            if reply.out_of_memory:
                return torch.OutOfMemoryError(reply.sentence)
        killed = [code for reply, code in zip(said, codes, strict=True) if reply is None and code]
        if killed:
            return _died(f"ended with exit code {killed[0]}")
        return _died(f"failed: {failed[0].sentence}" if failed else f"said nothing for {_SILENCE_SECONDS:.0f} seconds")

    def _end(self) -> None:
        """End all ranks: those that listen by hanging up, the others by force."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.kill()
            process.join()
        self._processes, self._pipes = [], []


def _received(pipe: Connection) -> Reply | None:
    """What a rank says, None if it is gone."""
    try:
        reply: Reply = pipe.recv()
    except (EOFError, OSError):
        return None
    return reply


def _died(how: str) -> LeaseLost:
    return LeaseLost(f"the process of one of the devices {how}", "rank_died")
