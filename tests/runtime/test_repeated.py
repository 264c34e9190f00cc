"""A flag that takes one value is given once."""

from __future__ import annotations

import sys
from typing import Annotated

import pytest
import typer

from foldcam.runtime.system.command import run_app


@pytest.fixture
def program(monkeypatch, capfd):
    app = typer.Typer(pretty_exceptions_enable=False)
    group = typer.Typer()
    app.add_typer(group, name="group")

    @app.command()
    def one(
        file: Annotated[str, typer.Option("--file", "-f")] = "",
        source: Annotated[list[str] | None, typer.Option()] = None,
        fast: Annotated[bool, typer.Option()] = True,
        as_json: Annotated[bool, typer.Option("--json")] = False,
    ) -> None:
        print(file, source, fast, as_json)

    group.command("inner")(one)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        with pytest.raises(SystemExit) as caught:
            run_app(app, "program")
        out, err = capfd.readouterr()
        return caught.value.code, out.strip(), " ".join(err.replace("│", " ").split())

    return call


@pytest.mark.parametrize("command", [("one",), ("group", "inner")])
@pytest.mark.parametrize(
    "flags", [("--file", "a", "--file", "b"), ("-f", "a", "--file=b"), ("-fa", "-fb")]
)
def test_a_second_value_is_wrong_usage_that_names_both(command, flags, program):
    status, out, err = program(*command, *flags)
    assert (status, out) == (2, "")
    assert "--file is given twice ('a' and 'b') and takes one value: give one." in err


def test_a_flag_and_its_opposite_are_wrong_usage(program):
    status, _, err = program("one", "--fast", "--no-fast")
    assert status == 2
    assert "--fast and its opposite are both given" in err


def test_flags_that_add_up_or_say_the_same_twice_are_taken(program):
    status, out, _ = program("one", "--source", "a", "--source", "b", "--json", "--json")
    assert (status, out) == (0, " ['a', 'b'] True True".strip())


@pytest.mark.parametrize(
    ("program_of", "flags"),
    [("runtime", ["run", "--file", "a", "--file", "b"]), ("runtime", ["bench", "--device", "cpu",
      "--device", "cpu"])],
)  # fmt: skip
def test_the_device_program_refuses_it_in_its_commands(program_of, flags, monkeypatch, capfd):
    from foldcam.runtime.cli.runtime import app

    monkeypatch.setattr(sys, "argv", [program_of, *flags])
    with pytest.raises(SystemExit) as caught:
        run_app(app, program_of)
    assert caught.value.code == 2
