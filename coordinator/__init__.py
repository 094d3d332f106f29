"""The one process that owns a run: leases work, collects deltas, publishes versions and checkpoints."""
