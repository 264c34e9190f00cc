"""Write constraints/py3.X.txt: every package the extras bring in, at the version that was resolved.

    python tools/constraints.py                 # every Python version of pyproject.toml
    python tools/constraints.py 3.12 --keep     # one version; pins that exist stay where they are

pip resolves in an empty environment of each interpreter (`python3.X` must be on the path) and
installs nothing. Versions that must not move are in constraints/held.txt.

Left out: what torch pins by itself (the CUDA libraries of its GPU builds), and local suffixes
such as `+cpu`, so that one file serves the CPU build and the GPU build.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "constraints"
EXTRAS = (
    "cpu",
    "live",
    "heic",
    "fonts",
    "export",
    "demo",
    "evaluate",
    "parquet",
    "mqtt",
    "rtx",
    "ray",
    "docs",
    "dev",
)
# torch names these with exact versions, and its CPU build has none of them.
OF_TORCH = re.compile(r"^(nvidia|cuda)-|^triton$")


def python_versions() -> list[str]:
    """The minor versions that pyproject.toml promises."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text)


def resolve(version: str, keep: bool) -> list[str]:
    """Return the pins `name==version` for one Python version."""
    interpreter = shutil.which(f"python{version}")
    # A shim of a version manager is on the path even where that version is not to be had.
    if interpreter is None or subprocess.run([interpreter, "-c", ""], check=False).returncode:
        sys.exit(
            f"python{version} is not on the path, or does not start: install it, or name other "
            "versions."
        )
    constraints = [FOLDER / "held.txt"]
    if keep and path_of(version).exists():
        constraints.append(path_of(version))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([interpreter, "-m", "venv", folder], check=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
        # A new pip resolves from the packages' metadata and downloads far less.
        subprocess.run([*pip, "install", "--upgrade", "pip"], check=True)
        report = Path(folder) / "report.json"
        subprocess.run(
            [*pip, "install", "--dry-run", "--ignore-installed", "--report", str(report)]
            + [part for path in constraints for part in ("--constraint", str(path))]
            + [f"{ROOT}[{','.join(EXTRAS)}]"],
            check=True,
        )
        installed = json.loads(report.read_text(encoding="utf-8"))["install"]
    pins = {}
    for item in installed:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        if name != "foldcam" and not OF_TORCH.search(name):
            pins[name] = item["metadata"]["version"].partition("+")[0]
    return [f"{name}=={pins[name]}" for name in sorted(pins)]


def path_of(version: str) -> Path:
    """Return the constraints file of one Python version."""
    return FOLDER / f"py{version}.txt"


def main() -> None:
    """Resolve and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("versions", nargs="*", help="3.10, 3.11, ...; all of them by default")
    parser.add_argument("--keep", action="store_true", help="move no pin that exists")
    arguments = parser.parse_args()
    for version in arguments.versions or python_versions():
        pins = resolve(version, arguments.keep)
        head = f"# Python {version}, extras {', '.join(EXTRAS)}. Written by `make constraints`.\n"
        path_of(version).write_text(head + "\n".join(pins) + "\n", encoding="utf-8")
        print(f"{path_of(version).relative_to(ROOT)}: {len(pins)} packages")


if __name__ == "__main__":
    main()
