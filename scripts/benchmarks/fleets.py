"""How deltas and updates travel, by name: what each way changes of a run."""

from __future__ import annotations

from typing import Final

FLEETS: Final = {
    "fp32": ("codec.delta='fp32'", "codec.update='fp32'"),
    "int8": ("codec.delta='int8'", "codec.update='int8'"),
    "int4": ("codec.delta='int4'", "codec.update='int4'", "codec.feedback=1.0"),
    "sparse": (
        "codec.delta='sparse'",
        "codec.update='sparse_wide'",
        "codec.feedback=0.95",
        # A delta of which a round sends little is worth longer steps: 1e-3 loses 13 % against it (docs/benchmarks.md).
        "inner.learning_rate=3e-3",
        # Momentum would go on along what only few workers said.
        "outer.optimizer='sgd'",
        "outer.learning_rate=1.0",
    ),
}
"""Overrides of configs/digits.toml."""
