"""Judging what a checkpoint draws; see `evaluate.py`."""
