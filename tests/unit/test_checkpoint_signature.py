"""Only the newest of the reader's line of keys vouches for a manifest; whatever else a signature may be is refused by name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_at_home.checkpoint.release_key import ReleaseKey
from diffusion_at_home.checkpoint.rotation import MAX_ROTATIONS, Rotation, load_rotations, rotation_message
from diffusion_at_home.checkpoint.signature import (
    MAX_SIGNATURE_BYTES,
    CheckpointSignature,
    Trust,
    Vouched,
    check_signature,
    parse_signature,
    release_message,
)
from diffusion_at_home.errors import ConfigError, SignatureError
from diffusion_at_home.identity import Handed, Identity
from diffusion_at_home.kept_weights import KeptWeights
from diffusion_at_home.signing_key import public_bytes

calmly = settings(deadline=None)  # a busy machine is no mistake
MANIFEST = b'{"name": "a manifest, by its bytes alone"}'
NAME = "signature.json"


def new_key() -> ReleaseKey:
    return ReleaseKey(Ed25519PrivateKey.generate(), ())


def step(old: ReleaseKey, new: ReleaseKey) -> Rotation:
    signature = old.key.sign(rotation_message(old.public_key, new.public_key)).hex()
    return Rotation(old=old.public_key, new=new.public_key, signature=signature)


def heir(old: ReleaseKey) -> ReleaseKey:
    """A new key to which `old` has passed."""
    new = new_key()
    return ReleaseKey(new.key, (*old.chain, step(old, new)))


def signed(key: ReleaseKey, manifest: bytes = MANIFEST) -> bytes:
    return key.sign(manifest).to_bytes()


def check(data: bytes | None, *, root: ReleaseKey | None = None, known: tuple[Rotation, ...] = ()) -> Vouched | None:
    return check_signature(data, MANIFEST, Trust(root.public_key if root else "", known, required=bool(root)), NAME)


def refusal(data: bytes | None, *, root: ReleaseKey | None = None, known: tuple[Rotation, ...] = ()) -> str:
    with pytest.raises(SignatureError) as refused:
        check(data, root=root, known=known)
    assert NAME in str(refused.value) or "release key" in str(refused.value)
    assert len(str(refused.value)) < 800
    return str(refused.value)


FIRST = new_key()
SECOND = heir(FIRST)
THIRD = heir(SECOND)
STRANGER = new_key()


# -- whose word is taken ------------------------------------------------------------------------------------------------


def test_key_that_the_reader_has_vouches() -> None:
    assert check(signed(FIRST), root=FIRST) == Vouched(FIRST.public_key, trusted=True)


@pytest.mark.parametrize("root", [FIRST, SECOND, THIRD], ids=["first", "second", "third"])
def test_heir_of_a_key_that_the_reader_has_vouches(root: ReleaseKey) -> None:
    assert check(signed(THIRD), root=root) == Vouched(THIRD.public_key, trusted=True)


def test_heir_vouches_also_by_rotations_that_are_known_from_elsewhere() -> None:
    bare = ReleaseKey(SECOND.key, ())
    assert check(signed(bare), root=FIRST, known=SECOND.chain) == Vouched(SECOND.public_key, trusted=True)
    assert "foreign key" in refusal(signed(bare), root=FIRST)


def test_without_a_key_of_the_readers_nobody_is_trusted() -> None:
    assert check(signed(FIRST)) == Vouched(FIRST.public_key, trusted=False)
    assert check(None) is None


def test_signature_may_be_required_only_where_somebody_names_a_key() -> None:
    with pytest.raises(ConfigError, match="give it with --key"):
        check_signature(signed(FIRST), MANIFEST, Trust(required=True), NAME)


# -- what is refused ----------------------------------------------------------------------------------------------------


def test_unsigned_is_refused_where_a_signature_is_required() -> None:
    assert refusal(None, root=FIRST).startswith(f"there is no {NAME}: nobody vouches for this checkpoint")


def test_foreign_key_is_refused() -> None:
    said = refusal(signed(STRANGER), root=FIRST)
    assert said.startswith(
        f"{NAME} is by the foreign key {STRANGER.public_key}, not by the release key {FIRST.public_key}"
    )


def test_heir_of_a_foreign_key_is_refused() -> None:
    assert "foreign key" in refusal(signed(heir(STRANGER)), root=FIRST)


def test_old_key_is_refused_once_its_rotation_is_known() -> None:
    assert check(signed(FIRST), root=FIRST)
    assert refusal(signed(FIRST), root=FIRST, known=SECOND.chain).startswith(f"{NAME} is by the old release key")
    assert refusal(signed(SECOND), root=FIRST, known=THIRD.chain).startswith(f"{NAME} is by the old release key")
    assert refusal(signed(FIRST), known=SECOND.chain).startswith(f"{NAME} is by the old release key")


def test_old_key_is_foreign_to_who_knows_the_new_one_alone() -> None:
    assert "foreign key" in refusal(signed(FIRST), root=SECOND)


def test_key_that_has_passed_to_two_is_refused() -> None:
    thief = heir(FIRST)
    said = refusal(signed(thief), root=FIRST, known=SECOND.chain)
    assert "has passed to two keys" in said
    assert all(key.public_key in said for key in (SECOND, thief))


def test_theft_of_an_old_key_does_not_touch_who_trusts_the_new_one() -> None:
    thief = heir(FIRST)
    assert check(signed(SECOND), root=SECOND, known=thief.chain) == Vouched(SECOND.public_key, trusted=True)


def test_keys_that_pass_in_a_circle_are_refused() -> None:
    circle = (step(FIRST, SECOND), step(SECOND, FIRST))
    assert "in a circle" in refusal(signed(ReleaseKey(SECOND.key, ())), root=FIRST, known=circle)


def test_signature_of_another_manifest_is_refused() -> None:
    assert refusal(signed(FIRST, b"another"), root=FIRST) == (
        f"{NAME} is the signature of another manifest: do not use this checkpoint"
    )


def test_signature_of_another_manifest_that_claims_this_one_is_forged() -> None:
    sha256 = hashlib.sha256(MANIFEST).hexdigest()
    forged = FIRST.sign(b"another").model_copy(update={"manifest_sha256": sha256})
    assert refusal(forged.to_bytes(), root=FIRST).startswith(f"{NAME} is forged")


def test_signature_by_another_key_in_a_known_ones_name_is_forged() -> None:
    forged = STRANGER.sign(MANIFEST).model_copy(update={"public_key": FIRST.public_key})
    assert refusal(forged.to_bytes(), root=FIRST).startswith(f"{NAME} is forged")


def test_no_other_signature_of_the_same_key_is_one_of_a_release() -> None:
    """Keys are not to be shared, but where one is, nothing it signs elsewhere may vouch for a checkpoint."""
    identity, sha256 = Identity(FIRST.key), hashlib.sha256(MANIFEST).hexdigest()
    others = [
        identity.sign_join(sha256, 1),
        identity.sign_contribution(Handed("r", 1, sha256, KeptWeights.EXACT, sha256, 1)),
        FIRST.key.sign(rotation_message(FIRST.public_key, sha256)),
        FIRST.key.sign(sha256.encode()),
        FIRST.key.sign(MANIFEST),
    ]
    for other in others:
        data = FIRST.sign(MANIFEST).model_copy(update={"signature": other.hex()}).to_bytes()
        assert refusal(data, root=FIRST).startswith(f"{NAME} is forged")


# -- broken chains ------------------------------------------------------------------------------------------------------


def with_rotations(rotations: Any, key: ReleaseKey = THIRD) -> bytes:
    plain = json.loads(signed(key)) | {"rotations": rotations}
    return (json.dumps(plain, indent=1) + "\n").encode()


ONE, TWO = (rotation.model_dump() for rotation in THIRD.chain)


@pytest.mark.parametrize(
    ("rotations", "said"),
    [
        ([ONE], "does not end in its key"),
        ([TWO, ONE], "the chain breaks off"),
        ([ONE, {**TWO, "signature": ONE["signature"]}], "has not signed that it passes to"),
        ([{**ONE, "old": STRANGER.public_key}, TWO], "has not signed that it passes to"),
        ([ONE, {**TWO, "new": STRANGER.public_key}], "has not signed that it passes to"),
        ([{**ONE, "note": "x"}, TWO], "not permitted"),
        ([{**ONE, "signature": "0" * 127}, TWO], "match pattern"),
        ([ONE, TWO] * MAX_ROTATIONS, "at most 32 items"),
        ("none", "valid array"),
    ],
)
def test_broken_chain_of_rotations_is_refused(rotations: Any, said: str) -> None:
    assert said in refusal(with_rotations(rotations), root=FIRST)


def test_chain_that_returns_to_a_key_is_refused() -> None:
    back = step(THIRD, FIRST).model_dump()
    bare = ReleaseKey(FIRST.key, ())
    assert "a key comes twice" in refusal(with_rotations([ONE, TWO, back], bare), root=FIRST)


def test_key_that_passes_to_itself_is_refused() -> None:
    signature = FIRST.key.sign(rotation_message(FIRST.public_key, FIRST.public_key)).hex()
    circle = {"old": FIRST.public_key, "new": FIRST.public_key, "signature": signature}
    assert "passes to itself" in refusal(with_rotations([circle], FIRST), root=FIRST)


# -- garbage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"extra": 1},
        {"public_key": FIRST.public_key.upper()},
        {"signature": ""},
        {"manifest_sha256": 7},
        {"rotations": None},
    ],
)
def test_signature_of_another_shape_is_refused(change: dict[str, Any]) -> None:
    data = json.dumps(json.loads(signed(FIRST)) | change).encode()
    assert refusal(data, root=FIRST).startswith(f"{NAME} is not a checkpoint's signature (")


def test_every_field_but_the_rotations_is_needed() -> None:
    plain = json.loads(signed(FIRST))
    for field in ("manifest_sha256", "public_key", "signature"):
        data = json.dumps({key: value for key, value in plain.items() if key != field}).encode()
        assert "is not a checkpoint's signature" in refusal(data, root=FIRST)


def test_truncated_signature_is_refused_wherever_it_ends() -> None:
    data = signed(THIRD)
    for end in range(len(data)):
        refusal(data[:end], root=FIRST)


def test_huge_signature_is_refused_before_it_is_parsed() -> None:
    assert refusal(b"[" * (MAX_SIGNATURE_BYTES + 1), root=FIRST) == (
        f"{NAME} is larger than any signature: do not use this checkpoint"
    )


def test_same_signature_in_other_bytes_is_refused() -> None:
    data = signed(FIRST)
    for other in (data + b"\n", data.replace(b"\n", b""), data.replace(b'"format": 1', b'"format":  1')):
        assert parse_signature(data, NAME)
        assert refusal(other, root=FIRST).startswith(f"{NAME} is not written as a signature is")


@calmly
@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode) | st.just(b"[" * 60_000))
def test_what_is_no_signature_is_refused_as_such(data: bytes) -> None:
    assert "is not a checkpoint's signature" in refusal(data, root=FIRST)


@calmly
@given(data=st.data())
def test_any_change_of_the_signature_is_refused(data: st.DataObject) -> None:
    refusal(mutated(signed(THIRD), data), root=FIRST)


@calmly
@given(data=st.data())
def test_any_change_of_the_manifest_is_refused(data: st.DataObject) -> None:
    other = mutated(MANIFEST, data)
    with pytest.raises(SignatureError, match="is the signature of another manifest"):
        check_signature(signed(THIRD), other, Trust(FIRST.public_key, required=True), NAME)


def mutated(good: bytes, data: st.DataObject) -> bytes:
    """`good` with some of its bytes replaced by others, taken out, or put in."""
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(start + 80, len(good))))
    filling = st.binary(max_size=80) | st.sampled_from([good[i : i + 64] for i in range(0, len(good), 8)])
    changed = good[:start] + data.draw(filling) + good[end:]
    return changed if changed != good else good + b" "


# -- the file of rotations ----------------------------------------------------------------------------------------------


def test_no_file_is_no_rotation(tmp_path: Path) -> None:
    assert load_rotations(tmp_path / "rotations.json") == ()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not a chain of rotations"),
        (b"x" * 70_000, "is larger than any chain"),
        (json.dumps({"rotations": []}).encode(), "at least 1"),
        (json.dumps({"rotations": [TWO, ONE]}).encode(), "the chain breaks off"),
    ],
)
def test_file_that_is_no_chain_is_refused_by_its_name(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "rotations.json"
    path.write_bytes(data)
    with pytest.raises(SignatureError, match=said) as refused:
        load_rotations(path)
    assert str(refused.value).startswith(str(path))


def test_message_of_a_release_is_as_documented() -> None:
    sha256 = hashlib.sha256(MANIFEST).hexdigest()
    assert release_message(sha256) == f"dah-release-v1\n{sha256}".encode()
    signature = CheckpointSignature.model_validate_json(signed(FIRST))
    FIRST.key.public_key().verify(bytes.fromhex(signature.signature), release_message(sha256))
    assert public_bytes(FIRST.key).hex() == signature.public_key
