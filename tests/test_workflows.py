"""The workflows of .github keep the public schema and what the project promises of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import walk_workflows as walking
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


def steps(job: str) -> list[dict[str, Any]]:
    workflow = loaded(ROOT / ".github" / "workflows" / "latency.yml")
    found: list[dict[str, Any]] = workflow["jobs"][job]["steps"]
    return found


@pytest.mark.parametrize("label", ["gpu", "jetson"])
def test_the_gate_runs_on_a_gpu_and_on_a_jetson_and_leaves_what_it_found(label: str) -> None:
    job = loaded(ROOT / ".github" / "workflows" / "latency.yml")["jobs"][label]
    assert job["runs-on"] == ["self-hosted", label]
    commands = [step.get("run", "") for step in job["steps"]]
    # Engines are compared, with the base commit where the class has no baseline.
    engines = [each for each in commands if "--device tensorrt" in each and "--update" not in each]
    assert len(engines) == 1
    assert "--base graphs/base" in engines[0]
    assert "$GITHUB_STEP_SUMMARY" in "\n".join(commands)
    assert any("upload-artifact" in step.get("uses", "") for step in job["steps"])


def conditions() -> dict[str, str]:
    jobs = loaded(ROOT / ".github" / "workflows" / "latency.yml")["jobs"]
    return {name: jobs[name]["if"] for name in ("graphs", "gpu", "jetson")}


@pytest.mark.parametrize("job", ["graphs", "gpu", "jetson"])
@pytest.mark.parametrize(
    ("changed", "runs"),
    [
        ({}, True),
        ({"github.event_name": "push"}, True),
        ({"github.event.pull_request.head.repo.full_name": "stranger/project"}, False),
        ({"github.event.repository.fork": True, "github.event_name": "push"}, False),
        ({"vars.GPU_RUNNERS": None, "vars.JETSON_RUNNERS": None}, False),
    ],
    ids=["own branch", "push", "a fork's pull request", "inside a fork", "no runners"],
)
def test_strangers_code_never_reaches_a_machine_of_the_projects_own(
    job: str, changed: dict[str, Any], runs: bool, tmp_path: Path
) -> None:
    walk = walking.Walk(tmp_path, {**walking.USUAL, **changed})
    assert bool(walk.value(conditions()[job])) is runs


@pytest.mark.parametrize("job", ["gpu", "jetson"])
def test_clocks_are_locked_before_the_gate_and_unlocked_whatever_happened(job: str) -> None:
    names = [step.get("name") for step in steps(job)]
    gate = min(names.index(name) for name in names if name and name.startswith("Gate"))
    assert names.index("Lock clocks") < gate < names.index("Unlock clocks")
    (unlock,) = [step for step in steps(job) if step.get("name") == "Unlock clocks"]
    assert unlock["if"] == "always()"


def test_the_jetson_job_installs_neither_torch_nor_onnx_runtime() -> None:
    (install,) = [step["run"] for step in steps("jetson") if step.get("name") == "Install"]
    assert "[" not in install.replace("$CUDA_MAJOR", "")
    assert "onnx" not in install


WALKED = """
jobs:
  first:
    runs-on: ubuntu-24.04
    env: {WHO: "${{ vars.WHO || 'nobody' }}"}
    steps:
      - uses: actions/checkout@v4
      - name: greets
        run: |
          mkdir made
          echo "$WHO" > made/who
      - name: sees no home of a user
        run: test -z "$(ls -A "$HOME")"
      - uses: actions/upload-artifact@v4
        with: {name: made, path: made/}
  second:
    needs: first
    if: needs.first.result == 'success' && !vars.NEVER
    runs-on: [self-hosted, gpu]
    steps:
      - uses: actions/download-artifact@v4
        with: {name: made, path: got}
      - run: grep somebody got/who
      - name: fails
        run: |
          false
          echo unreached
      - name: is left out
        run: echo unreached
      - name: tidies up
        if: always()
        run: sudo nvidia-smi --reset-gpu-clocks
  third:
    if: vars.NEVER
    runs-on: ubuntu-24.04
    steps:
      - run: echo unreached
"""


def test_the_walk_executes_steps_as_a_runner_would(tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "a.yml").write_text(WALKED)
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "walk_workflows.py"), "--workflows",
         str(tmp_path / "flows"), "--out", str(tmp_path / "out"), "--set", "vars.WHO=somebody"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    jobs = json.loads((tmp_path / "out/log.json").read_text())["jobs"]
    found = {name: [(step["name"], step["how"]) for step in log] for name, log in jobs.items()}
    assert found == {
        "a.yml:first vars.WHO=somebody": [
            ("actions/checkout@v4", "stood in for"),
            ("greets", "ran"),
            ("sees no home of a user", "ran"),
            ("actions/upload-artifact@v4", "stood in for"),
        ],
        "a.yml:second vars.WHO=somebody": [
            ("actions/download-artifact@v4", "stood in for"),
            ("grep somebody got/who", "ran"),
            ("fails", "FAILED with 1"),
            ("is left out", "left out: a step failed"),
            ("tidies up", "ran"),
        ],
        "a.yml:third vars.WHO=somebody": [],
    }
    asked = (tmp_path / "out/a/second/asked.log").read_text()
    assert asked == "nvidia-smi --reset-gpu-clocks\n"


def test_no_workflow_may_write_more_than_one_job_needs() -> None:
    for path in WORKFLOWS:
        assert loaded(path)["permissions"] == {"contents": "read"}, path.name
