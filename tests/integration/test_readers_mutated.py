"""Whatever the other side, a server or a crash has made of what is read: it is accepted or refused by name, and that is all."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from benchmarks.fuzz import fuzz
from benchmarks.fuzz.guard import Guard, Outcome, Verdict
from benchmarks.fuzz.mutation import mutate_bytes, mutate_json
from benchmarks.fuzz.target import Target, WronglyAccepted
from benchmarks.fuzz.targets import all_targets

from diffusion_at_home.errors import DataError

OF_EACH_KIND = 120
NOTHING_LOADED_YET = range(-30, 0)
"""Mutants that come first: a module that is loaded for the first time is code that runs."""


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    scratch = tmp_path / "canary" / "scratch"
    scratch.mkdir(parents=True)
    guard = Guard(scratch, seconds=0.3)
    with guard.up():
        yield guard


def never_ends() -> None:
    while True:
        pass


def refuses_what_nobody_can_print() -> None:
    raise DataError("\udcff is no name")


def refuses_at_length() -> None:
    raise DataError("x" * 100_000)


def panics() -> None:
    class Panic(BaseException):
        pass

    raise Panic


def believes_a_length() -> bytearray:
    return bytearray(2**36)


@pytest.mark.parametrize(
    ("read", "outcome"),
    [
        (lambda: {}["missing"], Outcome.CRASHED),
        (lambda: sys.exit(0), Outcome.CRASHED),
        (panics, Outcome.CRASHED),
        (believes_a_length, Outcome.CRASHED),
        (refuses_what_nobody_can_print, Outcome.CRASHED),
        (refuses_at_length, Outcome.CRASHED),
        (never_ends, Outcome.HUNG),
        (lambda: 1, Outcome.ACCEPTED),
    ],
)
def test_a_reader_that_is_bad_is_found_out(guard: Guard, read: Callable[[], object], outcome: Outcome) -> None:
    verdict = guard.call(read, (DataError,))
    assert verdict.outcome == outcome
    assert bool(verdict.trace) == (outcome is not Outcome.ACCEPTED)
    assert (verdict.code_run, verdict.writes_outside) == ((), ())


def test_only_the_errors_of_its_contract_are_refusals(guard: Guard) -> None:
    def refuse() -> None:
        raise DataError("it is no shard: build it again")

    assert guard.call(refuse, (DataError,)) == Verdict(Outcome.REFUSED)
    assert guard.call(refuse, (KeyError,)).outcome is Outcome.CRASHED


@pytest.mark.parametrize(
    "read",
    [
        lambda: exec("1"),
        lambda: compile("1", "x", "eval"),
        lambda: __import__("this_module_is_nowhere"),
        lambda: __import__("subprocess").Popen(["true"]).wait(),
        lambda: __import__("os").system("true"),
        lambda: __import__("socket").create_connection(("127.0.0.1", 9)),
    ],
)
def test_a_reader_that_runs_something_is_found_out(guard: Guard, read: Callable[[], object]) -> None:
    assert guard.call(read, (OSError, ImportError)).code_run


def test_a_reader_that_writes_elsewhere_is_found_out(guard: Guard) -> None:
    inside, outside = guard.scratch / "x", guard.scratch / ".." / "x"
    link = guard.scratch / "link"
    link.symlink_to(guard.scratch.parent)
    assert not guard.call(lambda: inside.write_bytes(b""), ()).writes_outside
    for write in (
        lambda: outside.write_bytes(b""),
        lambda: (link / "y").write_bytes(b""),
        lambda: inside.rename(outside),
        (guard.scratch / ".." / "z").mkdir,
        outside.unlink,
    ):
        assert guard.call(write, ()).writes_outside
    assert not guard.call((guard.scratch.parent / "y").read_bytes, ()).writes_outside


def test_what_is_found_is_counted_and_can_be_repeated(guard: Guard, capsys: pytest.CaptureFixture[str]) -> None:
    def mutant(rng: random.Random) -> Callable[[], object]:
        number = rng.randrange(10)

        def read() -> None:
            if number == 0:
                raise WronglyAccepted("a forgery")

        return read

    target = Target("bad", 1, mutant, (DataError,))
    tally = fuzz(guard, target, range(100))
    assert 0 < tally.outcomes[Outcome.CRASHED] < 50
    first = capsys.readouterr().err.splitlines()[0].split()[0]
    assert fuzz(guard, target, [int(first.removeprefix("bad:"))]).outcomes == {Outcome.CRASHED: 1}


def test_mutants_differ_from_each_other_and_are_the_same_again() -> None:
    data, document = bytes(range(200)), {"a": [1, {"b": "text"}], "c": None}
    for mutate in (lambda rng: mutate_bytes(data, data[::-1], rng), lambda rng: mutate_json(document, rng)):
        mutants = [mutate(random.Random(seed)) for seed in range(200)]
        assert mutants == [mutate(random.Random(seed)) for seed in range(200)]
        assert len(set(mutants)) > 100


def test_every_reader_accepts_or_refuses_and_does_nothing_else(tmp_path: Path) -> None:
    scratch = tmp_path / "canary" / "scratch"
    scratch.mkdir(parents=True)
    guard = Guard(scratch)
    with ExitStack() as opened:
        targets = all_targets(scratch, opened)
        assert len({target.kind for target in targets}) == len(targets) > 25
        with guard.up():
            for target in targets:
                fuzz(guard, target, NOTHING_LOADED_YET)
                tally = fuzz(guard, target, range(OF_EACH_KIND))
                assert set(tally.outcomes) <= {Outcome.ACCEPTED, Outcome.REFUSED}, target.kind
                assert (tally.code_run, tally.writes_outside) == (0, 0), target.kind
    assert [path.name for path in scratch.parent.iterdir()] == ["scratch"]
