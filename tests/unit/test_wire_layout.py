from __future__ import annotations

import hashlib

import torch
from torch import nn

from diffusion_at_home.wire.layout import Layout


class Tied(nn.Module):
    """Two names for one tensor, and names that do not come in order."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(3, 2)
        self.first = nn.Linear(2, 3, bias=False)
        self.alias = self.first
        self.register_buffer("table", torch.zeros(5))


def test_slots_follow_the_names_without_gaps_and_tied_tensors_come_once() -> None:
    layout = Layout.of(Tied())
    assert [(slot.name, slot.shape, slot.offset) for slot in layout.slots] == [
        ("first.weight", (3, 2), 0),
        ("second.bias", (2,), 6),
        ("second.weight", (2, 3), 8),
    ]
    assert layout.num_elements == 14


def test_digest_never_changes_and_tells_shapes_apart() -> None:
    layout = Layout.of(Tied())
    text = '[["first.weight",[3,2]],["second.bias",[2]],["second.weight",[2,3]]]'
    assert layout.digest == hashlib.sha256(text.encode()).hexdigest()
    transposed = Tied()
    transposed.second.weight = nn.Parameter(torch.zeros(3, 2))
    assert Layout.of(transposed).digest != layout.digest


def test_flatten_and_load_are_inverse_and_copy() -> None:
    source, target = Tied(), Tied()
    layout = Layout.of(source)
    flat = layout.flatten(source)
    layout.load(target, flat)
    assert torch.equal(layout.flatten(target), flat)
    assert torch.equal(target.alias.weight, source.first.weight)
    flat.zero_()
    assert bool(source.first.weight.any())


def test_load_keeps_the_precision_of_the_model() -> None:
    model = Tied().to(torch.bfloat16)
    Layout.of(model).load(model, torch.full((14,), 1.001))
    assert model.first.weight.dtype is torch.bfloat16
    assert set(Layout.of(model).flatten(model).tolist()) == {1.0}


def test_digest_of_weights_is_over_layout_and_little_endian_numbers() -> None:
    layout, flat = Layout.of(Tied()), torch.arange(14, dtype=torch.float32)
    prefix = f"dah-weights-1\n{layout.digest}\n".encode()
    digest = hashlib.sha256(flat.numpy().astype("<f4").tobytes()).digest()
    assert layout.weights_digest(flat) == hashlib.sha256(prefix + digest).hexdigest()


def test_digest_of_many_weights_is_over_the_digests_of_their_parts() -> None:
    layout, flat = Layout.of(Tied()), torch.arange(2 * 2**20 + 5, dtype=torch.float32)
    data = flat.numpy().astype("<f4").tobytes()
    parts = b"".join(hashlib.sha256(data[at : at + 2**22]).digest() for at in range(0, len(data), 2**22))
    expected = hashlib.sha256(f"dah-weights-1\n{layout.digest}\n".encode() + parts).hexdigest()
    assert layout.weights_digest(flat) == expected
