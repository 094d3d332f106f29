"""A program that trains two leases of a step as a worker does, and says what its process took at most and what was planned.

Arguments: the folder of the machine's plans, and what the run is as JSON.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.unit.tiny_run import batches, tiny_config, tiny_tokenizer
from worker.device import open_device
from worker.settings import Device, WorkerSettings
from worker.steppers import TrainingSite, open_stepper
from worker.stretch import PlannedTrainer, WorkPlan, this_machine  # with all that a stretch of work loads


def main(folder: Path, overrides: Sequence[str]) -> dict[str, int | str]:
    """Sizes in bytes."""
    config, settings = tiny_config(*overrides), WorkerSettings(device=Device.CPU)
    site = TrainingSite(config, tiny_tokenizer(config), open_device(settings), settings)
    work = WorkPlan(config, site.tokenizer_json, this_machine(site.compute, 1), folder)
    layout = site.layout()
    trainer = PlannedTrainer(config, work, lambda step: open_stepper(site, layout, step), lambda _plan: None)
    base = torch.empty(layout.num_elements).normal_(std=0.02)
    for seed in range(2):
        trained = trainer.train(
            base,
            lambda: batches(1, config.inner.batch_images, config.model.sample_shape),
            seed=seed,
            learning_rate=1e-3,
            should_stop=lambda: False,
            on_step=lambda _images, _loss: None,
        )
        assert all(edge.isfinite() and edge != 0 for edge in torch.aminmax(trained.delta))
        del trained
    return {"plan": str(work.step), "peak_bytes": peak_bytes(), "planned_bytes": work.rung.host_bytes}


def peak_bytes() -> int:
    """The most that this process ever had in memory."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), json.loads(sys.argv[2]))) + "\n")
