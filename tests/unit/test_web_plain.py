"""What the pages' records become as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from coordinator.web.pages import plain


@dataclass(frozen=True)
class Loss:
    version: int
    mean: float


def test_a_loss_that_broke_is_null_in_strict_json() -> None:
    found = plain({"evaluations": (Loss(1, 0.5), Loss(2, math.inf), Loss(3, math.nan)), 7: [True, "inf"]})
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "evaluations": [{"version": 1, "mean": 0.5}, {"version": 2, "mean": None}, {"version": 3, "mean": None}],
        "7": [True, "inf"],
    }
