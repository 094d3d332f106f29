"""Judges exported checkpoints beside the rounds: what, when, in which process, and what stays of it."""
