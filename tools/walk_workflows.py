"""Walks through the workflows of .github as a runner would, on this machine.

    python tools/walk_workflows.py                       # every job; log in build/workflows/
    python tools/walk_workflows.py --only latency.yml:jetson    # this one again

Each job gets a clone of HEAD, an empty home and a clean environment; its `run:` steps are executed
in order by bash as GitHub's runner does, conditions included. Actions are stood in for: a checkout
is the clone, a Python is a virtual environment, artifacts are folders. Jobs of machines of the
project's own get the pretended device of the tests. Of a matrix the first row is taken. What takes
hours is replaced by the short forms of `SHORT`, which the log names.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from foldcam.benchmarks.evaluation.documents import provenance

ROOT = Path(__file__).resolve().parent.parent
DEVICE = ROOT / "tests" / "pretended_device"
SECONDS = 1800
_DRY = "make's dry run in place of lint and tests"
# Text of a step -> what is executed in its place, and that in words.
SHORT = {
    "make check": ("make --dry-run check", _DRY),
    "make lint": ("make --dry-run lint", _DRY),
    "make test": ("make --dry-run test", _DRY),
    "sudo apt-get update && sudo apt-get install --yes": (
        "apt-get --version #",
        "apt-get's version in place of an installation",
    ),
    "--editable '.[cuda]' tensorrt": (
        "--editable '.[cuda]'",
        "no TensorRT from an index, whose package asks the driver for its version",
    ),
    "bench gate --device cuda": (
        "bench gate --device cpu",
        "ONNX Runtime on the processor in place of CUDA",
    ),
    "bench gpu": (
        "bench gpu --device cpu --networks EfficientNet-Lite0 --rows 300 --batches 1 --rounds 3 "
        "--size 64",
        "one small network in bench gpu",
    ),
    "--graphs graphs/head": (
        "--graphs graphs/head --repeats 6 --rounds 5 --margin 9 --absolute-margin 9",
        "few rounds and wide margins in the gate, as other programs use the processor",
    ),
}
USUAL = {
    "github.event_name": "pull_request",
    "github.repository": "owner/project",
    "github.ref": "refs/heads/main",
    "github.ref_name": "main",
    "github.sha": "HEAD",
    "github.token": "no token",
    "github.workflow": "walk",
    "github.event.repository.fork": False,
    "github.event.pull_request.head.repo.full_name": "owner/project",
    "github.event.pull_request.number": 1,
    "vars.GPU_RUNNERS": "true",
    "vars.GPU_TENSORRT": "true",
    "vars.JETSON_RUNNERS": "true",
}


@dataclass
class Walk:
    """One job under way.

    Attributes:
        folder: of everything that belongs to the job.
        values: dotted name -> what expressions find under it.
        failed: whether a step has failed.
        log: of each step `(name, run or uses, how, seconds)`.
    """

    folder: Path
    values: dict[str, Any]
    failed: bool = False
    log: list[tuple[str, str, str, float]] = field(default_factory=list)

    @property
    def workspace(self) -> Path:
        """The checkout."""
        return self.folder / "workspace"

    def value(self, expression: str) -> Any:
        """An expression of GitHub's language, as far as the workflows use it."""
        words = re.findall(
            r"'[^']*'|&&|\|\||==|!=|!|[(),]|[\w.*-]+", expression.strip().replace("\n", " ")
        )
        operators = {"&&": " and ", "||": " or ", "!": " not ", "true": "True", "false": "False"}
        functions = ("always", "cancelled", "startsWith")
        text = "".join(
            operators.get(word)
            or (word if word[0] in "'(),=!" or word in functions else f"get({word!r})")
            for word in words
        )
        names = {
            "get": self.values.get,
            "always": lambda: True,
            "cancelled": lambda: False,
            "startsWith": lambda text, start: str(text or "").startswith(start),
        }
        return eval(text, {"__builtins__": {}}, names)

    def filled(self, text: object) -> str:
        """A text with its `${{ }}` replaced."""

        def fill(found: re.Match[str]) -> str:
            value = self.value(found[1])
            return "" if value is None else str(value)

        return re.sub(r"\$\{\{(.*?)\}\}", fill, str(text), flags=re.DOTALL)

    def wanted(self, condition: str | None) -> bool:
        """Whether a step runs: by its condition, and not after a failure unless it says so."""
        if condition is None:
            return not self.failed
        text = re.sub(r"^\$\{\{(.*)\}\}$", r"\1", condition.strip(), flags=re.DOTALL)
        asked = any(word in text for word in ("always()", "cancelled()"))
        return bool(self.value(text)) and (asked or not self.failed)


def environment(walk: Walk, own_machine: bool) -> dict[str, str]:
    """What a step finds set: nothing of this machine but its system's programs."""
    path = [str(walk.folder / "python" / "bin"), "/usr/local/bin", "/usr/bin", "/bin"]
    found = {
        "HOME": str(walk.folder / "home"),
        "LANG": "C.UTF-8",
        "CI": "true",
        "GITHUB_ACTIONS": "true",
        "GITHUB_WORKSPACE": str(walk.workspace),
        "GITHUB_REPOSITORY": "owner/project",
        "GITHUB_REF_NAME": str(walk.values.get("github.ref_name")),
        "GITHUB_STEP_SUMMARY": str(walk.folder / "summary.md"),
        "RUNNER_TEMP": str(walk.folder / "temp"),
        "PRETENDED_LOG": str(walk.folder / "asked.log"),
    }
    if own_machine:
        clock = str(walk.values.get("vars.GPU_CLOCK") or "1500")
        found |= {
            "PYTHONPATH": str(DEVICE),
            "PRETENDED_SMI": f"{clock}, 450, 0x0",
            "PRETENDED_SITE": os.pathsep.join(each for each in sys.path if "site-packages" in each),
        }
    found["PATH"] = os.pathsep.join([str(DEVICE / "bin"), *path])
    return found


def run_step(walk: Walk, step: dict[str, Any], base: dict[str, str]) -> str:
    """Execute one `run:`; returns how it went."""
    script = walk.filled(step["run"])
    shortened = [long for long in SHORT if long in script]
    for long in shortened:
        script = script.replace(long, SHORT[long][0])
    settings = {name: walk.filled(value) for name, value in step.get("env", {}).items()}
    with (walk.folder / "output.log").open("ab") as output:
        output.write(f"\n== {_name(step)}\n{script}\n--\n".encode())
        output.flush()
        process = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script],
            cwd=walk.workspace, env={**base, **settings}, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
    if status:
        walk.failed = True
        return f"FAILED with {status}"
    return "ran" + (f", short form of {', '.join(map(repr, shortened))}" if shortened else "")


def stand_in(walk: Walk, step: dict[str, Any], artifacts: Path) -> str:
    """What an action does, as far as later steps need it."""
    action = str(step["uses"]).partition("@")[0]
    given = {key: walk.filled(value) for key, value in step.get("with", {}).items()}
    if action == "actions/setup-python":
        subprocess.run([sys.executable, "-m", "venv", str(walk.folder / "python")], check=True)
        return f"stood in for: this machine's Python {sys.version_info[0]}.{sys.version_info[1]}"
    if action == "actions/upload-artifact":
        place = artifacts / given["name"]
        place.mkdir(parents=True, exist_ok=True)
        for line in given["path"].split():
            source = walk.workspace / line
            if source.is_dir():
                shutil.copytree(source, place, dirs_exist_ok=True)
            elif given.get("if-no-files-found") == "error":
                walk.failed = True
                return f"FAILED: there is no {line}"
        return "stood in for"
    if action == "actions/download-artifact":
        target = walk.workspace / given.get("path", ".")
        for source in sorted(artifacts.glob(given.get("name") or given["pattern"])):
            alone = "name" in given
            shutil.copytree(source, target if alone else target / source.name, dirs_exist_ok=True)
        return "stood in for"
    if action in ("actions/checkout", "actions/cache"):
        return "stood in for"
    walk.failed = True
    return f"FAILED: nothing stands in for {action}"


def walk_job(job: dict[str, Any], walk: Walk, artifacts: Path, given: dict[str, str]) -> None:
    """All steps of a job, in a clone of HEAD."""
    for name in ("home", "temp"):
        (walk.folder / name).mkdir(parents=True)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(walk.workspace)], check=True)
    own_machine = "self-hosted" in job["runs-on"]
    base = environment(walk, own_machine)
    base |= {name: walk.filled(value) for name, value in job.get("env", {}).items()}
    base |= given
    for step in job["steps"]:
        begin = time.monotonic()
        if not walk.wanted(step.get("if")):
            how = "left out: its condition" if not walk.failed else "left out: a step failed"
        elif "run" in step:
            how = run_step(walk, step, base)
        else:
            how = stand_in(walk, step, artifacts)
        kind = "run" if "run" in step else "uses"
        walk.log.append((_name(step), kind, how, time.monotonic() - begin))
        print(f"  {_name(step)}: {how} ({walk.log[-1][-1]:.0f} s)", flush=True)


def _name(step: dict[str, Any]) -> str:
    return str(step.get("name") or step.get("uses") or step["run"].strip().splitlines()[0])


def main() -> None:
    """Walk, and exit with 1 where a step failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", help="FILE:JOB; several times for several")
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE of an expression")
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        help="NAME=VALUE for every step: how this machine reaches packages",
    )
    parser.add_argument("--workflows", type=Path, default=ROOT / ".github" / "workflows")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "workflows")
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    values = {**USUAL, **dict(pair.split("=", 1) for pair in arguments.set)}
    given = dict(pair.split("=", 1) for pair in arguments.env)
    log = out / "log.json"
    if not arguments.only:
        shutil.rmtree(out, ignore_errors=True)
    known = json.loads(log.read_text("utf-8"))["jobs"] if log.is_file() else {}
    failed = False
    for file in sorted(arguments.workflows.glob("*.yml")):
        workflow = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
        for name, job in workflow["jobs"].items():
            place = f"{file.name}:{name}"
            if arguments.only and place not in arguments.only:
                continue
            matrix = job.get("strategy", {}).get("matrix", {})
            found = {**values, **{f"matrix.{key}": row[0] for key, row in matrix.items()}}
            walk = Walk(out / file.stem / name, found)
            shutil.rmtree(walk.folder, ignore_errors=True)
            print(place, flush=True)
            condition = job.get("if")
            if condition is None or walk.value(condition):
                walk_job(job, walk, out / file.stem / "artifacts", given)
                values[f"needs.{name}.result"] = "failure" if walk.failed else "success"
            else:
                values[f"needs.{name}.result"] = "skipped"
            failed |= walk.failed
            # Walked under other conditions it is another entry.
            known[" ".join([place, *arguments.set])] = [
                {"name": step, "kind": kind, "how": how, "seconds": round(seconds)}
                for step, kind, how, seconds in walk.log
            ]
            for folder in (walk.workspace, walk.folder / "python"):
                shutil.rmtree(folder, ignore_errors=True)
            words = {long: said for long, (_, said) in SHORT.items()}
            # Without its flags: how this machine reaches packages is its own matter.
            origin = {**provenance(), "command": "python tools/walk_workflows.py"}
            document = {**origin, "short_forms": words, "jobs": known}
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"Written to {out}: log.json, and output.log of each job")
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
