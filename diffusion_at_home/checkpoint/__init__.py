"""Checkpoints: diffusers folders that anyone can download, verify and load without us."""
