"""Answers at once, with the same made-up numbers every time."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

_ARRAYS = 20


def _train(message: Message, context: Context) -> Message:
    numbers = np.random.default_rng(0)
    size = int(context.run_config["elements"]) // _ARRAYS
    arrays = ArrayRecord([1e-3 * numbers.standard_normal(size, dtype=np.float32) for _ in range(_ARRAYS)])
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 8})})
    return Message(content=content, reply_to=message)


app = ClientApp()
app.train()(_train)
