"""The workflows of .github keep the public schema and what the project promises of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def checked(*paths: Path) -> subprocess.CompletedProcess[str]:
    """GitHub's schema as the package `check-jsonschema` carries it; no network."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.github-workflows", *map(str, paths)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def loaded(path: Path) -> dict[str, Any]:
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def jobs() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{path.name}: {name}", job)
        for path in WORKFLOWS
        for name, job in loaded(path)["jobs"].items()
    ]


def test_every_workflow_keeps_githubs_schema() -> None:
    assert [path.name for path in WORKFLOWS] == ["latency.yml", "release.yml", "tests.yml"]
    done = checked(*WORKFLOWS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_refuses_what_is_no_workflow(tmp_path: Path) -> None:
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    broken = tmp_path / "tests.yml"
    broken.write_text(text.replace("runs-on:", "run-on:"), encoding="utf-8")
    assert checked(broken).returncode != 0


@pytest.mark.parametrize("job", [job for _, job in jobs()], ids=[name for name, _ in jobs()])
def test_every_job_ends_by_itself(job: dict[str, Any]) -> None:
    assert 0 < job["timeout-minutes"] <= 60


def test_tests_run_on_every_python_and_on_both_kinds_of_processor() -> None:
    jobs = loaded(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]
    assert set(jobs) == {"check", "tests"}
    job = jobs["tests"]
    assert [step["run"] for step in job["steps"] if "run" in step][-2:] == [
        "make lint",
        "make test",
    ]
    matrix = job["strategy"]["matrix"]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert matrix["python"] == re.findall(r"Python :: (3\.\d+)", project)
    assert any(name.endswith("-arm") for name in matrix["runner"])
    assert any(not name.endswith("-arm") for name in matrix["runner"])


def test_the_gate_runs_on_a_gpu_and_on_a_jetson_and_leaves_what_it_found() -> None:
    workflow = loaded(ROOT / ".github" / "workflows" / "latency.yml")
    for label in ("gpu", "jetson"):
        job = workflow["jobs"][label]
        assert job["runs-on"] == ["self-hosted", label]
        commands = "\n".join(step.get("run", "") for step in job["steps"])
        assert "foldcam bench gate" in commands
        assert "$GITHUB_STEP_SUMMARY" in commands
        assert any("upload-artifact" in step.get("uses", "") for step in job["steps"])
        # Code of strangers does not run on machines of the project's own.
        assert "head.repo.full_name == github.repository" in job["if"]


def test_no_workflow_may_write_more_than_one_job_needs() -> None:
    for path in WORKFLOWS:
        assert loaded(path)["permissions"] == {"contents": "read"}, path.name
