"""The check of killed commands finds what it looks for, and nothing where there is nothing."""

from __future__ import annotations

import sys

import pytest

from foldcam.benchmarks.studies.reliability import kills
from foldcam.runtime.system.errors import FoldcamError

# Writes in small steps, so that a kill in between is likely; the second renames at the end.
CARELESS = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1]); folder.mkdir(exist_ok=True)
with (folder / "x.json").open("w") as file:
    for part in ["["] + ["1,"] * 40 + ["1]"]:
        file.write(part); file.flush(); time.sleep(0.005)
"""
CAREFUL = CARELESS.replace('"x.json"', '".x.partial.json"') + (
    'file.close(); (folder / ".x.partial.json").rename(folder / "x.json")\n'
)


def figures_of(code: str, tmp_path, count: int = 4) -> kills.Figures:
    out = tmp_path / "out"
    command = kills.Command("test", [sys.executable, "-c", code, str(out)])
    return kills._kill_often(command, out, count, lambda done: None)


def test_a_partial_file_under_its_final_name_is_found(tmp_path):
    figures = figures_of(CARELESS, tmp_path)
    assert figures.kills == 4
    assert any(text.startswith("x.json: JSONDecodeError") for text in figures.partial)


def test_a_file_that_is_renamed_when_it_is_whole_passes(tmp_path):
    figures = figures_of(CAREFUL, tmp_path)
    assert (figures.kills, figures.partial) == (4, [])
    assert figures.files + figures.left > 0


def test_a_command_that_does_not_run_at_all_is_no_success(tmp_path):
    with pytest.raises(FoldcamError, match="does not run undisturbed: no luck"):
        figures_of("import sys; sys.exit('no luck')", tmp_path)
