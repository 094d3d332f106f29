"""One rank: a process with one device and its part of the model. Does what the daemon says, and ends when it hangs up."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Final

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from diffusion_at_home.model.build import build_model
from diffusion_at_home.wire.layout import Layout
from worker.device import open_device, shapes_only
from worker.ranks.messages import Command, Failed, Job, Loss, Ready, Reply, Start, Step
from worker.ranks.vector import open_vector
from worker.step.compute import Compute
from worker.step.out_of_memory import is_out_of_memory
from worker.step.shards import materialize, shard
from worker.step.stepper import ModelStepper
from worker.step.weights import DTYPES

_PATIENCE: Final = timedelta(minutes=10)
"""For the other ranks, in one exchange with them."""


def run_rank(rank: int, job: Job, pipe: Connection) -> None:
    """The process's main function."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the daemon, which hangs up when it is done
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_daemon, name="daemon-watch", daemon=True).start()
    try:
        compute = open_device(job.settings, rank)
        with _meeting(rank, job, compute) as mesh:
            vector = open_vector(job.vector_path, job.num_elements)
            stepper = _build(job, mesh, compute)
            pipe.send(Ready())
            while True:
                pipe.send(_obey(pipe.recv(), stepper, vector))
    except EOFError:
        return
    except Exception as error:  # noqa: BLE001 -- whatever it is, the daemon is told and decides
        text = str(error).partition("\n")[0]
        with suppress(OSError):  # unless the daemon knows already, and has hung up
            pipe.send(Failed(f"{type(error).__name__}: {text}", is_out_of_memory(error)))
        # The others may be waiting for this rank in an exchange that will not come: no orderly end is possible.
        os._exit(1)


def _end_with_the_daemon() -> None:
    """Also in the middle of an exchange: there nobody listens for the daemon's hanging up."""
    daemon = multiprocessing.parent_process()
    assert daemon is not None
    daemon.join()
    os._exit(1)


def _obey(command: Command, stepper: ModelStepper, vector: Tensor) -> Reply:
    if isinstance(command, Start):
        stepper.start(vector, command.seed, command.learning_rate)
        return Ready()
    if isinstance(command, Step):
        loss = stepper.accumulate(command.share())
        stepper.update(command.num_images)
        return Loss(float(loss))
    stepper.delta(vector, vector)
    return Ready()


def _build(job: Job, mesh: DeviceMesh, compute: Compute) -> ModelStepper:
    config, plan = job.config, job.plan
    model = shapes_only(lambda: build_model(config.model, config.objective, job.tokenizer_json, config.run.seed))
    layout = Layout.of(model)
    assert layout.num_elements == job.num_elements
    model.to(DTYPES[plan.weights])
    shard(model, mesh, plan, compute)
    materialize(model, plan, compute)
    return ModelStepper(config, model, layout, compute, plan)


@contextmanager
def _meeting(rank: int, job: Job, compute: Compute) -> Iterator[DeviceMesh]:
    """Within, the ranks can exchange tensors: over NCCL between GPUs, over gloo on this machine's loopback between CPUs."""
    on_gpu = compute.device.type == "cuda"
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    distributed.init_process_group(
        "cuda:nccl,cpu:gloo" if on_gpu else "gloo",
        init_method=f"file://{job.meeting_path}",
        rank=rank,
        world_size=job.plan.devices,
        timeout=_PATIENCE,
        device_id=compute.device if on_gpu else None,
    )
    torch.manual_seed(job.config.run.seed)
    yield init_device_mesh(compute.device.type, (job.plan.devices,))
    distributed.destroy_process_group()
