"""From the deltas of a round to the next version: pure functions."""
