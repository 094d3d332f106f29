"""A command ends in a result, or in one sentence and an exit code; nothing the other side wrote reaches the terminal raw."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from diffusion_at_home.cli.output import emit, run_command
from diffusion_at_home.errors import ConfigError, PortInUse

INSTALL = "pip install 'diffusion-at-home[all]'"

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"]))
results = st.dictionaries(st.text("abc_", min_size=1), st.recursive(plain, st.lists, max_leaves=5))


def failing(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


def test_success_is_zero_and_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: None, debug=False) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("change run.name"), 3, "dah: change run.name\n"),
        (PortInUse("port 1 is in use"), 10, "dah: port 1 is in use\n"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 8, f"dah: torch is not installed: {INSTALL}\n"),
        (KeyboardInterrupt(), 130, ""),
        (typer.Abort(), 130, ""),
        (SystemExit(7), 7, ""),
        (SystemExit("words"), 1, ""),
    ],
)
def test_a_failure_is_one_sentence_and_its_code(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(failing(error), debug=False) == code
    assert capsys.readouterr() == ("", said)


def test_a_fault_of_ours_is_one_line_that_asks_for_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(failing(ZeroDivisionError("division\nby zero")), debug=False) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "ZeroDivisionError: division by zero): run it with `dah --debug` and report it" in said


def test_with_debug_a_traceback_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    run_command(failing(ConfigError("change run.name")), debug=True)
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.endswith("\ndah: change run.name\n")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_sentence_moves_the_cursor(text: str) -> None:
    with redirect_stderr(io.StringIO()) as said:
        run_command(failing(ConfigError(text)), debug=False)
    assert said.getvalue().endswith("\n")
    assert said.getvalue()[:-1].isprintable()


@given(results)
def test_a_result_as_json_is_one_object_on_one_line(result: dict[str, object]) -> None:
    with redirect_stdout(io.StringIO()) as said:
        emit(result, as_json=True)
    assert said.getvalue().count("\n") == 1
    assert (
        json.loads(said.getvalue(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON")).keys()
        == result.keys()
    )


@given(results)
def test_a_result_for_people_is_a_printable_line_a_key(result: dict[str, object]) -> None:
    with redirect_stdout(io.StringIO()) as said:
        emit(result, as_json=False)
    assert said.getvalue().count("\n") == len(result)
    assert said.getvalue().replace("\n", "").isprintable()


def test_people_read_numbers_and_answers_as_words(capsys: pytest.CaptureFixture[str]) -> None:
    emit(
        {
            "images": 1501,
            "loss": 0.123456789,
            "running": True,
            "best": None,
            "names": ["a", "b"],
            "none": [],
            "at": Path("x"),
        },
        as_json=False,
    )
    assert capsys.readouterr().out.splitlines() == [
        "images   1,501",
        "loss     0.123457",
        "running  yes",
        "best     -",
        "names    a, b",
        "none     none",
        "at       x",
    ]


def test_the_code_that_typer_returns_for_ctrl_c_is_the_exit_code() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    app = typer.Typer()
    app.command()(interrupted)
    command = typer.main.get_command(app)
    assert run_command(lambda: command.main([], standalone_mode=False), debug=False) == 130
