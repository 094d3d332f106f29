"""Work on chunks by several threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from diffusion_at_home.wire.parallel import in_order

pytestmark = pytest.mark.usefixtures("_threads")


@pytest.fixture(params=[1, 3])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Torch has that many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def test_results_are_in_order() -> None:
    assert list(in_order(lambda index: index * index, 100)) == [index * index for index in range(100)]
    assert list(in_order(lambda index: index, 0)) == []


def test_first_error_in_order_is_raised_and_nothing_works_on() -> None:
    begun: list[int] = []

    def work(index: int) -> int:
        begun.append(index)
        if index >= 5:
            raise ValueError(f"chunk {index}")
        return index

    with pytest.raises(ValueError, match="chunk 5"):
        list(in_order(work, 1000))
    number = len(begun)
    assert number < 100
    assert list(in_order(lambda index: index, 50)) == list(range(50))
    assert len(begun) == number


def test_caller_that_stops_early_finds_nobody_at_work() -> None:
    working = threading.Semaphore(0)
    begun, ended = [], []

    def work(index: int) -> int:
        begun.append(index)
        if index > 0:
            working.acquire(timeout=0.01)
        ended.append(index)
        return index

    results = in_order(work, 1000)
    assert next(results) == 0
    results.close()
    assert sorted(begun) == sorted(ended)
    assert len(begun) < 100


def test_torch_keeps_its_threads_elsewhere() -> None:
    before = torch.get_num_threads()
    list(in_order(str, 10))
    assert torch.get_num_threads() == before
    with ThreadPoolExecutor(1) as fresh:
        assert fresh.submit(torch.get_num_threads).result() == before


def test_threads_are_as_many_as_torch_may_have_now() -> None:
    torch.set_num_threads(2)
    list(in_order(str, 10))
    torch.set_num_threads(3)
    three_at_once = threading.Barrier(3, timeout=30)
    list(in_order(lambda _: three_at_once.wait(), 9))
    torch.set_num_threads(1)
    assert set(in_order(lambda _: threading.current_thread(), 9)) == {threading.current_thread()}
