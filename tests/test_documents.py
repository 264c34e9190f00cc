"""Whatever README and docs tell a reader to type exists, with the flags that they show."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from foldcam.runtime.cli import foldcam as foldcam_cli
from foldcam.runtime.cli import runtime as cli

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Of this checkout; the installed metadata may be of another.
COMMANDS = PROJECT["entry-points"][foldcam_cli.GROUP]
TEXTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "Dockerfile")),
    *sorted((ROOT / "docs").glob("*.md")),
]
PROGRAMS: dict[str, Any] = {
    "foldcam": get_command(
        foldcam_cli.gather([EntryPoint(*item, foldcam_cli.GROUP) for item in COMMANDS.items()])
    ),
    "runtime": get_command(cli.app),
}
# What the texts show of pip, uv, venv, docker, systemctl and apt.
FOREIGN = {
    *("--build-arg", "--constraint", "--device", "--gpus", "--group-add", "--now"),
    *("--rm", "--runtime", "--show-current", "--system-site-packages", "--universal", "--user"),
}  # fmt: skip


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of each line in a block of code that calls one of the programs."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    blocks.append("\n".join(re.findall(r"^#  +(.*)$", text, re.MULTILINE)))
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        for call in re.split(r"&&|;", line):
            call = call.strip().removeprefix("ExecStart=")
            if not re.match(r"(\S*/)?(foldcam|runtime|docker)\s", call):
                continue
            words = shlex.split(call, comments=True)
            if words[:2] == ["docker", "run"]:
                # The image's entry point is `runtime`; the image follows docker's own flags.
                images = [n for n, word in enumerate(words) if word.partition(":")[0] == "foldcam"]
                words = ["runtime", *words[images[-1] + 1 :]]
            if words and Path(words[0]).name in PROGRAMS:
                yield [Path(words[0]).name, *words[1:]]


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The innermost command that the words name, and the words left for it."""
    command, rest = PROGRAMS[words[0]], words[1:]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        # `a|b` and `a`, `b` and `c` stand for any of them.
        names = rest[0].split("|")
        for name in names:
            assert name in command.commands, f"{' '.join(words)}: no command {name!r}"
        command, rest = command.commands[names[0]], rest[1:]
    return command, rest


def flags_of(command: Any) -> set[str]:
    """Every flag of a command and of those below it."""
    own = {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)}
    below = (flags_of(each) for each in getattr(command, "commands", {}).values())
    return own.union({"--help"}, *below)


EVERY_FLAG = set().union(*(flags_of(program) for program in PROGRAMS.values()))


def workflow_text(path: Path) -> str:
    """What the steps of a workflow run, as a block of code."""
    lines = (line.strip().removeprefix("- run: ") for line in path.read_text("utf-8").splitlines())
    return "```\n" + "\n".join(lines) + "\n```"


SHOWN = {path: path.read_text(encoding="utf-8") for path in TEXTS} | {
    path: workflow_text(path) for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
}
LINES = [
    pytest.param(words, id=f"{path.name}: {' '.join(words)}")
    for path, text in SHOWN.items()
    for words in command_lines(text)
]


@pytest.mark.parametrize("words", LINES)
def test_a_command_line_that_is_shown_parses(words):
    command, rest = command_of(words)
    if rest == ["--help"]:
        return
    if any("|" in word for word in words):
        assert {word for word in rest if word.startswith("--")} <= flags_of(command)
        return
    if rest == ["--help"]:
        return  # which would print and end
    command.make_context(words[-1], rest)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_a_command_or_flag_that_is_named_exists(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"`([^`\n]+)`", text):
        words = code.replace("\\|", "|").split()
        if words[0] in PROGRAMS:
            command, rest = command_of(words)
            assert {word for word in rest if word.startswith("--")} <= flags_of(command), code
        elif words[0] not in ("sudo", "docker", "python3", "pip", "pytest"):
            shown = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code))
            assert shown <= EVERY_FLAG | FOREIGN, code


@pytest.mark.parametrize(
    "words",
    [*(["foldcam", name] for name in ("export", "bank", "fold", "train", "verify")),
     ["runtime", "run"]],
    ids=" ".join,
)  # fmt: skip
def test_a_help_text_is_a_sentence(words):
    command, _ = command_of(words)
    for each in (command, *getattr(command, "commands", {}).values()):
        for parameter in each.params:
            text = (getattr(parameter, "help", None) or "").partition("  [default")[0].strip()
            wrong = not text[:1].isupper() or text[-1:] != "." or text.startswith("Of ")
            assert not (text and wrong), f"{each.name} {parameter.name}: {text}"


def test_every_make_target_that_is_named_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    for path in TEXTS:
        for code in re.findall(
            r"(?:`|^)(?:\S+ )*?make ([a-z-]+)", path.read_text(encoding="utf-8")
        ):
            assert code in targets, (path.name, code)


@pytest.mark.parametrize("path", [p for p in TEXTS if p.suffix == ".md"], ids=lambda p: p.name)
def test_a_file_that_is_linked_exists(path):
    for link in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
        if not link.startswith(("http:", "https:")):
            assert (path.parent / link).exists(), link


def test_a_flag_that_does_not_exist_would_be_found():
    (words,) = command_lines("```sh\nfoldcam fold m.onnx --bank b.safetensors --no-such\n```")
    command, rest = command_of(words)
    with pytest.raises(Exception, match="no-such"):
        command.make_context("fold", rest)
    with pytest.raises(AssertionError, match="no command 'glue'"):
        command_of(["foldcam", "glue"])
