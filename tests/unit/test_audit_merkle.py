"""A chunk that is shown is the one that was committed to, and nothing else is."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_at_home.audit.merkle import MerkleTree, is_included

chunk_lists = st.lists(st.binary(max_size=40), min_size=1, max_size=40)


def naive_root(chunks: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, word for word."""
    if len(chunks) == 1:
        return hashlib.sha256(b"\x00" + chunks[0]).digest()
    k = 1
    while 2 * k < len(chunks):
        k *= 2
    return hashlib.sha256(b"\x01" + naive_root(chunks[:k]) + naive_root(chunks[k:])).digest()


@given(chunk_lists)
def test_the_root_is_the_rfc_s(chunks: list[bytes]) -> None:
    assert MerkleTree.of(chunks).root == naive_root(chunks)


@given(chunk_lists, st.data())
def test_every_chunk_can_be_shown_at_its_place(chunks: list[bytes], data: st.DataObject) -> None:
    tree, index = MerkleTree.of(chunks), data.draw(st.integers(0, len(chunks) - 1))
    proof = tree.proof(index)
    assert len(proof) <= len(chunks).bit_length()
    assert is_included(chunks[index], index=index, num_chunks=len(chunks), proof=proof, root=tree.root)


@given(chunk_lists, st.data())
def test_no_other_chunk_place_number_or_proof_will_do(chunks: list[bytes], data: st.DataObject) -> None:
    tree, index = MerkleTree.of(chunks), data.draw(st.integers(0, len(chunks) - 1))
    proof, root = tree.proof(index), tree.root
    assert not is_included(chunks[index] + b"x", index=index, num_chunks=len(chunks), proof=proof, root=root)
    other = data.draw(st.integers(-1, len(chunks) + 1).filter(lambda place: place != index))
    if not (0 <= other < len(chunks)) or chunks[other] != chunks[index]:
        assert not is_included(chunks[index], index=other, num_chunks=len(chunks), proof=proof, root=root)
    for lie in ((*proof, bytes(32)), proof[:-1] if proof else (b"",), tuple(reversed(proof)), (b"", *proof[1:])):
        if lie != proof:
            assert not is_included(chunks[index], index=index, num_chunks=len(chunks), proof=lie, root=root)


def test_an_inner_node_is_no_chunk() -> None:
    chunks = [b"a", b"b", b"c", b"d"]
    tree = MerkleTree.of(chunks)
    left = MerkleTree.of(chunks[:2]).root + MerkleTree.of(chunks[2:]).root
    assert not is_included(left, index=0, num_chunks=1, proof=(), root=tree.root)


@pytest.mark.parametrize("num_chunks", [1, 2, 3, 64, 65])
def test_trees_of_other_sizes_have_other_roots(num_chunks: int) -> None:
    assert MerkleTree.of([b""] * num_chunks).root != MerkleTree.of([b""] * (num_chunks + 1)).root
