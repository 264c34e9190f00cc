"""Runs the steps of the proof on a GPU: each bounded in time, and whatever became of the others.

Called by run.sh, with the standard library alone; beside it lie `repository.tar.gz` and `wheels/`.
Writes into a folder named after the device `proof.json` (the device, and of each step what became
of it), a log per step, and what the steps themselves write.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
LEAST_SECONDS = 5
# It shadows the one for the processor, which may be there.
ALWAYS = ("onnxruntime-gpu",)


@dataclass
class Step:
    """One command.

    Attributes:
        name: of its log.
        words: of the command; `DEVICE` and `OUT` are replaced.
        seconds: that it may take.
        gpu: whether it is left out where there is no GPU.
        module: that must be importable for it.
        outcome: `passed`, `failed` or `left out`.
        reason: why not `passed`.
        took: seconds.
    """

    name: str
    words: list[str]
    seconds: int
    gpu: bool = True
    module: str = ""
    outcome: str = ""
    reason: str = ""
    took: float = 0.0


def steps(device: str) -> list[Step]:
    """All of them, in their order; what a later one needs comes first.

    On the processor they are only tried: with few rounds, whose figures mean nothing.
    """
    foldcam, runtime = (["-m", f"foldcam{part}"] for part in ("", ".runtime"))
    tried = device == "cpu"
    gate = [*foldcam, "bench", "gate", "--graphs", "OUT/graphs", "--clock", "any"]
    short = ["--repeats", "6" if tried else "8", "--rounds", "5" if tried else "40"]
    counts = ["--clean", "1", "--slowed", "1"] if tried else ["--clean", "3", "--slowed", "3"]
    proof = ["--prove", *counts, *short]
    rounds = ["--rounds", "3" if tried else "100"]
    small = ["--networks", "EfficientNet-Lite0", "--rows", "300", "--batches", "1"]
    size = [*small, "--size", "64"] if tried else ["--rows", "300,10000"]
    tests = ["tests/gpu", "tests/benchmarks/test_gpu.py", "tests/export/test_device.py"]
    found = [
        Step("doctor", [*runtime, "doctor"], 60, gpu=False),
        Step("graphs", [*foldcam, "bench", "gate", "--write-graphs", "OUT/graphs"], 90, gpu=False),
        Step(
            "tests",
            ["-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "--junitxml", "OUT/tests.xml",
             *tests],
            150,
        ),
        Step(
            "gpu",
            [*foldcam, "bench", "gpu", "--device", "DEVICE", *rounds, *size, "--out", "OUT/gpu"],
            150,
        ),
        Step(
            "frame",
            ["-m", "foldcam.benchmarks.studies.frame", "--provider", "DEVICE", "--out",
             "OUT/frame"],
            90,
        ),
        Step(
            "peers",
            [*foldcam, "bench", "gpu", "--device", "DEVICE", "--peers", *rounds, *small,
             *(size[-2:] if tried else []), "--out", "OUT/peers"],
            150,
        ),
    ]  # fmt: skip
    for kind, module in (("DEVICE", ""), ("tensorrt", "tensorrt"), ("rtx", "tensorrt_rtx")):
        name = device if kind == "DEVICE" else kind
        on = ["--device", kind]
        file = ["--baseline", f"OUT/baseline-{name}.json"]
        found += [
            Step(f"baseline-{name}", [*gate, *on, *short, *file, "--update"], 90, module=module),
            Step(
                f"gate-{name}",
                [*gate, *on, *short, *file, "--out", f"OUT/gate-{name}"], 60, module=module,
            ),
            # At no clock but a steady one: whether the check of the clocks passes here.
            Step(
                f"clocks-{name}",
                [*gate[:-2], *on, "--repeats", "6", "--rounds", "10", "--update", "--baseline",
                 f"OUT/clocks-{name}.json"],
                40, module=module,
            ),
            Step(
                f"prove-{name}",
                [*gate, *on, *proof, "--out", f"OUT/prove-{name}"], 150, module=module,
            ),
        ]  # fmt: skip
    return found


def install(wheels: Path, site: Path) -> list[str]:
    """Put every wheel whose package is missing here into a folder; returns what failed."""
    problems = []
    for wheel in sorted(wheels.glob("*.whl")):
        name = wheel.name.partition("-")[0].replace("_", "-").lower()
        if name not in ALWAYS and _installed(name):
            continue
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        command += ["--no-compile", "--upgrade", "--target", str(site), str(wheel)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["pip said nothing"]
            problems.append(f"{wheel.name}: {said[-1]}")
    return problems


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def environment(code: Path, site: Path) -> dict[str, str]:
    """Where Python finds the checkout and the wheels, and programs the libraries of CUDA."""
    packages = Path(sysconfig.get_path("purelib"))
    libraries = [str(folder) for folder in sorted(packages.glob("nvidia/*/lib"))]
    before = os.environ.get("LD_LIBRARY_PATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(code / "src"), str(site)]),
        "LD_LIBRARY_PATH": os.pathsep.join([*libraries, *([before] if before else [])]),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "120",
    }


FACTS = """
import json
from foldcam.runtime.measurement.bench.facts import machine_facts, device_name
facts = machine_facts()
print(json.dumps({"name": device_name(facts), **facts}))
"""
HAS_MODULE = "import sys; from importlib import import_module; import_module(sys.argv[1])"


def run_step(
    step: Step, deadline: float, settings: dict[str, str], code: Path, out: Path, words: list[str]
) -> None:
    """Run one step, and write down what became of it."""
    seconds = min(float(step.seconds), deadline - time.monotonic())
    if seconds < LEAST_SECONDS:
        step.outcome, step.reason = "failed", "not started: the minutes are over"
        return
    begin = time.monotonic()
    with (out / "logs" / f"{step.name}.log").open("wb") as log:
        log.write(f"python {' '.join(words)}\n\n".encode())
        log.flush()
        process = subprocess.Popen(
            [sys.executable, *words], cwd=code, env=settings, stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
            # With what it started itself: the next step is to have the machine alone.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    step.took = round(time.monotonic() - begin, 1)
    step.outcome = "passed" if status == 0 else "failed"
    if status is None:
        step.reason = f"it ran longer than {seconds:.0f} s"
    elif status:
        step.reason = f"exit status {status}: {_last_line(out / 'logs' / f'{step.name}.log')}"


def _last_line(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


def main() -> int:
    """All steps; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments = parser.parse_args()
    begin = time.monotonic()
    deadline = begin + 60 * arguments.minutes
    code, site = HERE / "code", HERE / "site"
    with tarfile.open(HERE / "repository.tar.gz") as archive:
        archive.extractall(code, filter="data")
    problems = install(HERE / "wheels", site)
    settings = environment(code, site)
    asked = subprocess.run(
        [sys.executable, "-c", FACTS], env=settings, capture_output=True, text=True, check=False
    )
    if asked.returncode:
        print(f"foldcam does not import here: {asked.stderr.strip()[-400:]}", file=sys.stderr)
        print("\n".join(problems), file=sys.stderr)
        return 1
    device = json.loads(asked.stdout.strip().splitlines()[-1])
    out: Path = (arguments.out / re.sub(r"[^\w.-]", "-", device["name"])).resolve()
    (out / "logs").mkdir(parents=True, exist_ok=True)
    found = steps(arguments.device)
    for step in found:
        missing = step.module and subprocess.run(
            [sys.executable, "-c", HAS_MODULE, step.module],
            env=settings, capture_output=True, check=False,
        ).returncode  # fmt: skip
        on_cpu = arguments.device == "cpu" and not step.module and step.name != "tests"
        if missing:
            step.outcome, step.reason = "left out", f"the module {step.module} is not installed"
        elif step.gpu and "gpu" not in device and not on_cpu:
            step.outcome, step.reason = "left out", "the driver finds no NVIDIA GPU here"
        else:
            words = [
                word.replace("DEVICE", arguments.device).replace("OUT", str(out))
                for word in step.words
            ]
            run_step(step, deadline, settings, code, out, words)
        print(f"{step.name:<18}{step.outcome:<10}{step.took:6.1f} s  {step.reason}", flush=True)
    counts = {
        kind: sum(step.outcome == kind for step in found)
        for kind in ("passed", "failed", "left out")
    }
    document = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": (HERE / "commit.txt").read_text("utf-8").strip(),
        "device": device,
        "seconds": round(time.monotonic() - begin, 1),
        "counts": counts,
        "not_installed": problems,
        "steps": [asdict(step) for step in found],
    }
    (out / "proof.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    failed = [step.name for step in found if step.outcome == "failed"]
    print(", ".join(f"{number} {kind}" for kind, number in counts.items()), end="")
    print(f" ({', '.join(failed)})" if failed else "", f"Written to {out}", sep=". ")
    return 1 if failed else 2 if counts["left out"] else 0


if __name__ == "__main__":
    sys.exit(main())
