"""Whom the worker protocol trusts at a place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trust:
    """What makes a connection one with the run."""

    secure: bool
    """Whether it uses TLS; plain text is for this machine alone."""
    certificate: str = ""
    """The only one that will do (PEM), of the run's own making; empty where the system's authorities vouch for its host."""
