"""What a run's address answers at /run.json: enough to decide whether to join, before anything else is fetched."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from pydantic import ConfigDict, Field

from diffusion_at_home.config.toml import Section
from diffusion_at_home.config.values import Name

RUN_INFO_PATH: Final = "/run.json"
"""Where the coordinator serves it."""

MAX_RUN_INFO_BYTES: Final = 64 * 2**10
"""A longer answer is refused before it is read."""

MOST_MIRRORS: Final = 64
MOST_MIRROR_CHARACTERS: Final = 300


class RunInfo(Section):
    """A run in short.

    Unknown keys are ignored: a newer coordinator may add some, and that must not hide its protocol version.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(**{**Section.model_config, "extra": "ignore"})

    run_id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,79}$")]
    """`RunSpec.run_id`: names the run in signatures and folders."""
    run: Name
    """run.name of the config."""
    title: Annotated[str, Field(max_length=500)] = ""
    """One line for people."""
    protocol_version: Annotated[int, Field(ge=0)]
    """PROTOCOL_VERSION of the coordinator's code."""
    software: Annotated[str, Field(max_length=32)] = ""
    """`__version__` of the coordinator's code; empty if it is too old to say."""
    grpc_port: Annotated[int, Field(ge=1, le=65535)]
    """Port of the worker protocol on the same host."""
    spec_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Name (hex) of the blob that holds the run's specification."""
    certificate: Annotated[str, Field(max_length=16 * 2**10)] = ""
    """Of the run's own making (PEM), by which its address is pinned; empty where authorities vouch, or in plain text."""
    receipt_key: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Ed25519 key (hex) with which it signs receipts, as in its specification; empty if the coordinator is too old to say."""
    num_parameters: Annotated[int, Field(ge=0, le=10**13)] = 0
    """Trainable parameters of the model; 0 if the coordinator is too old to say."""
    mirrors: Annotated[
        tuple[Annotated[str, Field(max_length=MOST_MIRROR_CHARACTERS)], ...], Field(max_length=MOST_MIRRORS)
    ] = ()
    """Where others serve the run's blobs: what stands before /blobs/<sha256>. They are strangers: what comes is hashed."""
