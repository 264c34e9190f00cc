"""Numbers that no machine has, for every key that takes one: refused by the key's name."""

from __future__ import annotations

import pytest

from foldcam.runtime.pipeline.config import config_from
from foldcam.runtime.pipeline.config.keys import KEYS
from foldcam.runtime.pipeline.config.loading import parse_toml
from foldcam.runtime.system.documents import KeyProblem
from foldcam.runtime.system.errors import FoldcamError

HOSTILE = [
    "9" * 400, "-" + "9" * 400, "0x" + "f" * 4000, "9" * 20, "nan", "inf", "-inf", "1e308",
    "-1e308", '"\\u0000"', '"' + "9" * 5000 + '"', "[" * 50 + "]" * 50,
]  # fmt: skip
# What such a table needs beside the number.
LISTS = {"source": 'uri = "x"', "event": 'name = "a"\nlabel = "owl"'}


def numeric_keys() -> list[str]:
    return [
        key.path
        for key in KEYS
        if any(word in str(key.kind) for word in ("int", "float", "Literal[0"))
    ]


@pytest.mark.parametrize("path", numeric_keys())
def test_every_number_of_a_configuration_has_a_range(path):
    section, name = path.split(".")
    table = f"[[{section}]]\n{LISTS[section]}" if section in LISTS else f"[{section}]"
    for value in HOSTILE:
        for given in (value, f"[{value}, {value}]", f"[{', '.join([value] * 4)}]"):
            text = f"{table}\n{name} = {given}\n"
            try:
                document = parse_toml(text, "run.toml")
            except FoldcamError as error:
                assert len(str(error)) < 400  # noqa: PT017
                continue
            with pytest.raises(KeyProblem) as caught:
                config_from(document)
            assert len(str(caught.value)) < 400


def test_there_are_such_keys():
    assert len(numeric_keys()) > 15
