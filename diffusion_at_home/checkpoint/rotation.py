"""How a run's release key passes to its successor: a statement that the old key signs, and chains of them.

A `Rotation` that exists is one that its old key has signed. Whoever trusts a key trusts, by the rotations that it knows, the last
one of its line and no other: what an old key signs is refused, for it may have been rotated because somebody stole it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from diffusion_at_home.config.toml import Section, first_mistake
from diffusion_at_home.errors import SignatureError
from diffusion_at_home.signing_key import PublicKey, Signature, is_signed

ROTATIONS_SUFFIX: Final = ".rotations.json"
"""Beside a release key: the line that it comes from, and where it has passed to."""

ROTATIONS_NAME: Final = "rotations.json"
"""In a run's folder, where its coordinator reads it."""

MAX_ROTATIONS: Final = 32
_MAX_BYTES: Final = 64 * 2**10
_CONTEXT: Final = "dah-release-rotation-v1"


class Rotation(Section):
    """One step."""

    old: PublicKey
    """That signs."""
    new: PublicKey
    """That signs from now on."""
    signature: Signature
    """By the old one, over "dah-release-rotation-v1\\n" + old + "\\n" + new."""

    @model_validator(mode="after")
    def _signed(self) -> Self:
        if self.old == self.new:
            raise ValueError(f"the key {self.old[:16]}... passes to itself")
        if not is_signed(bytes.fromhex(self.old), rotation_message(self.old, self.new), bytes.fromhex(self.signature)):
            raise ValueError(f"the key {self.old[:16]}... has not signed that it passes to {self.new[:16]}...")
        return self


def rotation_message(old: str, new: str) -> bytes:
    """What the old key signs; both in hex."""
    return f"{_CONTEXT}\n{old}\n{new}".encode()


def _is_chain(rotations: tuple[Rotation, ...]) -> tuple[Rotation, ...]:
    for before, after in itertools.pairwise(rotations):
        if before.new != after.old:
            raise ValueError(f"the chain breaks off: {before.new[:16]}... is followed by {after.old[:16]}...")
    keys = keys_of(rotations)
    if len(set(keys)) != len(keys):
        raise ValueError("a key comes twice in the chain")
    return rotations


Chain = Annotated[tuple[Rotation, ...], Field(max_length=MAX_ROTATIONS), AfterValidator(_is_chain)]
"""Each passes on from where the one before passed to."""


class RotationsFile(Section):
    """`rotations.json`, and what lies beside a release key."""

    format: Literal[1] = 1
    """Of this file."""
    rotations: Annotated[Chain, Field(min_length=1)]
    """The oldest first."""


def keys_of(chain: Sequence[Rotation]) -> tuple[str, ...]:
    """All keys of a chain, the oldest first."""
    return (chain[0].old, *(rotation.new for rotation in chain)) if chain else ()


def line_from(root: str, known: Iterable[Rotation]) -> tuple[str, ...]:
    """`root` and the keys it has passed to, one after the other, as far as `known` tells. The last one signs.

    Raises `SignatureError` when one of them has passed to two: one of those is a thief's.
    """
    successors: dict[str, set[str]] = {}
    for rotation in known:
        successors.setdefault(rotation.old, set()).add(rotation.new)
    line = [root]
    while new := sorted(successors.get(line[-1], ())):
        if len(new) > 1:
            raise SignatureError(
                f"the release key {line[-1][:16]}... has passed to two keys, {' and '.join(new)}: somebody has stolen it; "
                "ask the run's operator which one to trust"
            )
        if new[0] in line:
            raise SignatureError(f"the release key {new[0][:16]}... has passed in a circle: ask the run's operator")
        line.append(new[0])
    return tuple(line)


def load_rotations(path: Path) -> tuple[Rotation, ...]:
    """The chain in `path`; none if there is no such file. Raises `SignatureError` that says what is wrong with it."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise SignatureError(f"{path} cannot be read ({error.strerror}): put the file there again") from None
    if len(data) > _MAX_BYTES:
        raise SignatureError(f"{path} is larger than any chain of rotations: put the right file there")
    try:
        return RotationsFile.model_validate_json(data).rotations
    except ValidationError as error:
        raise SignatureError(
            f"{path} is not a chain of rotations ({first_mistake(error)}): put the right file there"
        ) from None
