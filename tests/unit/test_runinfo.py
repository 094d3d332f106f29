"""What a run says of itself is bounded, and a newer coordinator can still say which protocol it speaks."""

from __future__ import annotations

import hashlib
import json

import pytest
from pydantic import ValidationError

from diffusion_at_home.errors import DataError
from diffusion_at_home.runinfo import RunInfo
from diffusion_at_home.runspec import RunSpec
from tests.unit.tiny_checkpoint import tiny_spec

INFO = {
    "run_id": "digits-0a1b2c3d",
    "run": "digits",
    "protocol_version": 1,
    "grpc_port": 8401,
    "spec_sha256": "0" * 64,
}


def test_keys_of_a_newer_coordinator_are_passed_over() -> None:
    info = RunInfo.model_validate_json(json.dumps({**INFO, "protocol_version": 99, "novelty": [1, 2]}))
    assert info.protocol_version == 99


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run_id", "../../etc"),
        ("run_id", ""),
        ("run_id", "a" * 81),
        ("run", "Digits!"),
        ("title", "x" * 501),
        ("protocol_version", -1),
        ("grpc_port", 0),
        ("grpc_port", 70_000),
        ("spec_sha256", "0" * 63),
        ("spec_sha256", "../" + "0" * 61),
    ],
)
def test_a_value_that_no_run_has_is_refused(key: str, value: object) -> None:
    with pytest.raises(ValidationError):
        RunInfo.model_validate_json(json.dumps({**INFO, key: value}))


def test_a_specification_survives_its_blob() -> None:
    spec = tiny_spec()
    again = RunSpec.from_bytes(spec.to_bytes())
    assert again.model_dump() == spec.model_dump()
    assert again.sha256 == spec.sha256


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[" * 100_000])
def test_what_is_no_specification_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="the run's specification does not parse"):
        RunSpec.from_bytes(data)


def test_specification_of_older_software_keeps_its_name() -> None:
    """A config that has got a key since says its default; the run is still the one that its blob names."""
    spec = tiny_spec()
    older = json.loads(spec.to_bytes())
    del older["config"]["storage"]
    blob = json.dumps(older).encode()
    read = RunSpec.from_bytes(blob)
    assert read.config == spec.config
    assert (read.to_bytes(), read.sha256) == (blob, hashlib.sha256(blob).hexdigest())
