from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from worker.step.masters import Fp32Master, Master, SplitMaster, StochasticMaster, join, round_stochastically, split
from worker.step.place import OnDevice

CPU = torch.device("cpu")
PLACE = OnDevice(CPU)


def numbers(count: int = 100_000) -> Tensor:
    """Of all magnitudes, both signs."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, generator=generator) * 10.0 ** torch.randint(-30, 30, (count,), generator=generator)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_split_and_join_are_exact_for_every_finite_number() -> None:
    value = torch.cat([numbers(), torch.tensor([0.0, -0.0, 1.0, torch.finfo(torch.float32).max, 1e-45, -1e-40])])
    assert torch.equal(join(*split(value)).view(torch.int32), value.view(torch.int32))


@given(st.integers(min_value=-(2**31), max_value=2**31 - 1))
def test_split_and_join_are_exact_for_any_bits(bits: int) -> None:
    value = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
    assert torch.equal(join(*split(value)).view(torch.int32), value.view(torch.int32))


def test_split_rounds_to_the_nearest() -> None:
    value = numbers()
    rounded, _ = split(value)
    ties = value.view(torch.int32).bitwise_and(0xFFFF) == 0x8000
    assert torch.equal(rounded[~ties], value.to(torch.bfloat16)[~ties])


def test_split_rounds_a_tie_away_from_zero() -> None:
    tie = torch.tensor([0x3F808000, 0x3F818000], dtype=torch.int32).view(torch.float32)  # to even would go down, up
    assert split(tie)[0].float().tolist() == [1.0078125, 1.015625]


def test_stochastic_rounding_keeps_the_mean() -> None:
    # Of n roundings between neighbours d apart the mean lies within 5 d / (2 sqrt(n)) of the value.
    for value in (1.0017, -0.30301, 123.4):
        many = torch.full((1_000_000,), value)
        mean = round_stochastically(many, generator()).double().mean().item()
        neighbours = 2.0 ** (torch.tensor(abs(value)).log2().floor().item() - 7)
        assert abs(mean - torch.tensor(value).item()) < 2.5 * neighbours / 1000


def test_stochastic_rounding_gives_one_of_the_two_neighbours_and_leaves_what_is_exact() -> None:
    value = numbers()
    rounded = round_stochastically(value, generator()).float()
    spacing = 2.0 ** (value.double().abs().log2().floor() - 7)
    assert bool(((rounded.double() - value.double()).abs() <= spacing).all())
    exact = value.to(torch.bfloat16).float()
    assert torch.equal(round_stochastically(exact, generator()).float(), exact)


def test_stochastic_rounding_leaves_what_is_not_finite() -> None:
    value = torch.tensor([torch.inf, -torch.inf, torch.nan])
    rounded = round_stochastically(value, generator())
    assert rounded[:2].tolist() == [torch.inf, -torch.inf]
    assert bool(rounded[2].isnan())


def test_updates_of_a_ten_thousandth_are_not_lost() -> None:
    """Ten thousand of them make a weight grow e-fold; plain bf16 would not move at all."""
    parameter = nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
    master, whole = StochasticMaster(parameter.data, CPU), slice(0, 4096)
    plain = torch.ones(4096, dtype=torch.bfloat16)
    for _ in range(1000):
        value = master.read(whole, [])
        master.write(whole, value * 1.0001, [])
        plain.mul_(1.0001)
    assert bool((plain == 1).all())
    assert parameter.detach().double().mean().item() == pytest.approx(1.0001**1000, rel=2e-3)


@pytest.mark.parametrize("kind", ["fp32", "stochastic", "split"])
def test_slices_write_only_what_they_cover(kind: str) -> None:
    dtype = torch.float32 if kind == "fp32" else torch.bfloat16
    parameter = nn.Parameter(torch.zeros(6, 4, dtype=dtype))
    makers = {
        "fp32": lambda: Fp32Master(parameter.data, CPU),
        "stochastic": lambda: StochasticMaster(parameter.data, CPU),
        "split": lambda: SplitMaster(parameter.data, CPU, PLACE),
    }
    master: Master = makers[kind]()
    middle, around = slice(8, 16), slice(4, 12)
    master.write(middle, torch.full((8,), 0.5), master.kept(middle))
    assert parameter.detach().flatten().tolist() == [0.0] * 8 + [0.5] * 8 + [0.0] * 8
    assert master.read(around, master.kept(around)).tolist() == [0.0] * 4 + [0.5] * 4


def test_exact_masters_return_what_was_written() -> None:
    value = numbers(24)
    for master in (
        Fp32Master(torch.zeros(24), CPU),
        SplitMaster(torch.zeros(24).bfloat16(), CPU, PLACE),
    ):
        whole = slice(0, 24)
        master.write(whole, value, master.kept(whole))
        assert torch.equal(master.read(whole, master.kept(whole)), value)
