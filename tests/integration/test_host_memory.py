"""What the memory plan says of a machine without GPU, against a real process that trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.tiny_run import REPOSITORY, tiny_config, tiny_tokenizer
from worker.memory.planning import WorkPlan, this_machine
from worker.step.compute import CPU
from worker.step.plan import StepPlan

TOLERANCE = 0.1

RUN = ("model.image_size=8", "inner.optimizer='adamw8bit'", "inner.clip='tensor'", "inner.batch_images=4")
LARGE = (*RUN, "model.prx.hidden_size=768", "model.prx.depth=7", "model.prx.heads=12")  # 97 million parameters
SMALL = (*RUN, "model.prx.hidden_size=512", "model.prx.depth=6", "model.prx.heads=8")  # 37 million


@pytest.mark.parametrize(
    ("plan", "overrides"),
    [
        pytest.param(StepPlan(), SMALL, marks=pytest.mark.slow),
        pytest.param(StepPlan(), LARGE, marks=pytest.mark.slow),
        pytest.param(StepPlan(release=True, checkpointing=True), LARGE, marks=pytest.mark.slow),
    ],
    ids=["small", "large", "large, release, recompute"],
)
def test_a_process_takes_what_its_plan_says(tmp_path: Path, plan: StepPlan, overrides: tuple[str, ...]) -> None:
    config = tiny_config(*overrides)
    work = WorkPlan(config, tiny_tokenizer(config), this_machine(CPU, 1), tmp_path)
    if work.step != plan:
        work.adopt(plan)
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.host_memory", tmp_path, json.dumps(overrides)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["plan"] == str(plan)
    assert found["planned_bytes"] == pytest.approx(found["peak_bytes"], rel=TOLERANCE)
