"""Plain FedAvg; the seconds of each round go to a file."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

_ARRAYS = 20


def _main(grid: Grid, context: Context) -> None:
    settings = context.run_config
    ended: list[float] = []

    def note(server_round: int, arrays: ArrayRecord) -> MetricRecord:  # noqa: ARG001
        """Called before the first round and at the end of each."""
        ended.append(time.monotonic())
        return MetricRecord({})

    start = ArrayRecord([np.zeros(int(settings["elements"]) // _ARRAYS, np.float32) for _ in range(_ARRAYS)])
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy.start(grid=grid, initial_arrays=start, num_rounds=int(settings["rounds"]), evaluate_fn=note)
    seconds = [later - sooner for sooner, later in itertools.pairwise(ended)]
    out = Path(str(settings["out"]))
    whole = out.with_suffix(".part")
    whole.write_text(json.dumps(seconds))
    whole.replace(out)


app = ServerApp()
app.main()(_main)
