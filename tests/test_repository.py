"""The repository's promises about itself: who imports whom, what is pinned, what files say."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import grimp
import networkx as nx
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINNED_EXTRAS = ("cpu", "live", "export", "demo", "parquet", "mqtt", "rtx", "ray", "docs", "dev")
PYTHONS = [
    c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.fullmatch(r".*Python :: 3\.\d+", c)
]

PACKAGES = ("runtime", "export", "calibrate", "benchmarks")


# Who imports whom: `make lint` holds the sources against the contracts of pyproject.toml.


def _linted(folder: Path) -> str:
    """What the linter says of a `foldcam` below a folder, by this project's own contracts."""
    (folder / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()",
         "--no-logo", "--no-cache"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert "Contracts:" in done.stdout, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("module", "text", "broken"),
    [
        ("runtime/a.py", "def f():\n    import foldcam.export\n", "runtime < export"),
        ("export/a.py", "if TYPE_CHECKING:\n    import foldcam.calibrate\n", "runtime < export"),
        ("calibrate/a.py", "import foldcam.benchmarks\n", "runtime < export"),
        ("runtime/a.py", "def f():\n    import torch\n", "neither torch nor onnx"),
        ("runtime/a.py", "if TYPE_CHECKING:\n    from onnx import helper\n", "neither torch nor"),
        ("benchmarks/a.py", "def f():\n    import foldcam.benchmarks.studies\n", "no study"),
        ("export/a.py", "def f():\n    import foldcam.export.b\n", "in a circle"),
    ],
)
def test_the_linter_refuses_what_the_dependency_rule_forbids(tmp_path, module, text, broken):
    for name in (*PACKAGES, "benchmarks/studies"):
        (tmp_path / "foldcam" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "foldcam" / name / "__init__.py").touch()
    (tmp_path / "foldcam" / "__init__.py").touch()
    (tmp_path / "foldcam/export/b.py").write_text("import foldcam.export.a\n")
    (tmp_path / "foldcam/export/a.py").touch()
    (tmp_path / "foldcam" / module).write_text("from typing import TYPE_CHECKING\n" + text)
    verdicts = re.findall(r"^(.*) (KEPT|BROKEN)\b", _linted(tmp_path), re.MULTILINE)
    assert [broken in name for name, verdict in verdicts if verdict == "BROKEN"] == [True], verdicts


def test_no_modules_import_each_other_in_a_circle() -> None:
    # The linter compares neighbours; this also finds a package and a module inside it.
    graph = grimp.build_graph("foldcam", exclude_type_checking_imports=False, cache_dir=None)
    imports = nx.DiGraph(
        (module, other)
        for module in graph.modules
        for other in graph.find_modules_directly_imported_by(module)
    )
    found = [sorted(part) for part in nx.strongly_connected_components(imports) if len(part) > 1]
    assert not found


# What is installed


def test_every_extra_is_a_list_of_valid_requirements() -> None:
    for name, requirements in EXTRAS.items():
        assert requirements, f"the extra {name} is empty"
        for requirement in requirements:
            Requirement(requirement)


def test_the_base_install_has_what_a_device_needs_and_no_more() -> None:
    names = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    # tomli is the standard library's tomllib for Python 3.10.
    assert names == {"msgspec", "numpy", "typer", "tomli"}


def _pins(version: str) -> dict[str, str]:
    text = (ROOT / "constraints" / f"py{version}.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9A-Za-z.]*", line) for line in lines), (
        "a pin is name==version, without a local suffix such as +cpu"
    )
    return dict(line.split("==") for line in lines)


def test_the_versions_of_python_are_those_from_requires_python_on() -> None:
    assert PYTHONS
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert all(version in allowed for version in PYTHONS)


@pytest.mark.parametrize("version", PYTHONS)
def test_the_constraints_pin_every_direct_dependency(version: str) -> None:
    pins = _pins(version)
    environment = {
        "python_version": version,
        "platform_system": "Linux",
        "platform_machine": "x86_64",
    }
    direct = PROJECT["dependencies"] + [text for name in PINNED_EXTRAS for text in EXTRAS[name]]
    for text in direct:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        name = canonicalize_name(requirement.name)
        assert name in pins, f"constraints/py{version}.txt does not pin {name}: make constraints"
        assert Version(pins[name]) in requirement.specifier, f"{name}=={pins[name]} is not {text}"


@pytest.mark.parametrize("version", PYTHONS)
def test_the_held_versions_are_those_of_the_constraints(version: str) -> None:
    pins = _pins(version)
    for line in (ROOT / "constraints" / "held.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            assert Version(pins[canonicalize_name(requirement.name)]) in requirement.specifier


def _entry_points() -> list[str]:
    groups = [PROJECT["scripts"], *PROJECT.get("entry-points", {}).values()]
    return sorted({value for group in groups for value in group.values()})


@pytest.mark.parametrize("target", _entry_points())
def test_an_entry_point_leads_to_something_callable(target: str) -> None:
    module, _, attribute = target.partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))


# What is in the wheel


def test_every_file_of_a_package_is_in_the_wheel() -> None:
    data = SETTINGS["tool"]["setuptools"]["package-data"]
    left_out = []
    for path in _files():
        name = path.relative_to(ROOT)
        # Studies and their results are what the documents rest on, in a checkout.
        if name.parts[0] not in PACKAGES or name.is_relative_to("benchmarks/results"):
            continue
        folder = next(each for each in path.parents if (each / "__init__.py").is_file())
        if path.suffix == ".py":
            assert folder == path.parent, f"{name.parent} has no __init__.py and would be left out"
            continue
        package = ".".join(("foldcam", *folder.relative_to(ROOT).parts))
        patterns = [*data.get("*", []), *data.get(package, [])]
        within = path.relative_to(folder)
        if not any(within.match(pattern) for pattern in patterns):
            left_out.append(str(name))
    assert not left_out, f"add them to tool.setuptools.package-data: {', '.join(left_out)}"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing in it but the wheel of this checkout, installed."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for path in _files():
        name = path.relative_to(ROOT)
        if name.parts[0] in (*PACKAGES, "src", "pyproject.toml", "README.md", "LICENSE"):
            place = source / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink():
                place.symlink_to(path.readlink())
            elif path.suffix in {".py", ".toml", ".md", ".typed"} or "static" in name.parts:
                place.write_bytes(path.read_bytes())
    for link in (ROOT / "src" / "foldcam").iterdir():
        if link.is_symlink():
            (source / "src" / "foldcam" / link.name).symlink_to(link.readlink())
    for command in (
        ["build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)],
        ["pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder / "site"),
         "--find-links", str(folder), "foldcam"],
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_wheel_is_one_package_without_studies_and_results(bare: Path) -> None:
    with zipfile.ZipFile(next(bare.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    assert {
        name.split("/")[0].removesuffix(f"-{PROJECT['version']}.dist-info") for name in names
    } == {"foldcam"}
    assert not [
        name
        for name in names
        if name.startswith(("foldcam/benchmarks/studies/", "foldcam/benchmarks/results/"))
    ]
    assert {f"foldcam/{name}/__init__.py" for name in PACKAGES} <= set(names)
    packages = {path.name for path in (bare / "site").iterdir() if path.suffix != ".dist-info"}
    assert packages - {"bin"} == {"foldcam"}


@pytest.mark.parametrize(
    ("program", "arguments", "said"),
    [
        ("foldcam", ("--help",), "export"),
        ("foldcam", ("bench", "--help"), "overhead"),
        ("foldcam", ("evaluate", "--help"), "localization"),
        ("runtime", ("--help",), "inspect"),
    ],
)
def test_the_wheel_shows_its_commands_and_no_study(bare, program, arguments, said):
    done = _installed(bare, program, *arguments)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert not re.search(
        r"\b(peers|scale|int8|ray|pipeline|transfer|architectures)\b *  ", done.stdout
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("bench", "peers", "--data", "anything"),
        ("bench", "ray", "--help"),
        ("evaluate", "transfer"),
        ("bench", "gate", "--prove"),
    ],
)
def test_a_study_says_that_it_runs_from_a_checkout(bare, arguments):
    done = _installed(bare, "foldcam", *arguments)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: foldcam {arguments[0]} {arguments[1]}")
    assert "a checkout of the repository" in line


def _installed(bare: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of what the wheel holds; other packages are this environment's."""
    script = bare / "call.py"
    script.write_text(
        f"import foldcam, sys\nassert foldcam.__file__.startswith({str(bare)!r})\n"
        f"from foldcam.runtime.cli.entry import {program} as main\nsys.exit(main())\n"
    )
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=bare, env={**os.environ, "PYTHONPATH": str(bare / "site"), "COLUMNS": "200"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


# The version, which pyproject.toml alone sets


def test_the_documents_name_the_wheel_of_this_version() -> None:
    named = {}
    for path in (ROOT / "README.md", ROOT / "Dockerfile", *(ROOT / "docs").glob("*.md")):
        for version in re.findall(r"foldcam-(\d[\w.]*)-py3", path.read_text(encoding="utf-8")):
            named[path.name, version] = version
    assert named
    assert set(named.values()) == {PROJECT["version"]}, named


def test_the_changelog_has_the_version_newest_first() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## \[(.+?)\](.*)$", text, re.MULTILINE)
    assert heads[0] == ("Unreleased", "")
    versions = [name for name, _ in heads[1:]]
    assert PROJECT["version"] in versions
    assert versions == sorted(versions, key=Version, reverse=True)
    assert all(re.fullmatch(r" - \d{4}-\d\d-\d\d", date) for _, date in heads[1:])


# What is in the files


def _files() -> list[Path]:
    """Return the files that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("needs a git checkout")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


# `[/]`, so that this line does not find itself. NVIDIA's own folder is the same everywhere,
# and `someone` lives nowhere.
MACHINE_PATH = re.compile(
    rb"(?<![\w.~])[/](?:root|work|home[/](?!someone[/])\w+|Users[/]\w+|opt(?![/]nvidia\b))[/]"
)


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    found = []
    for path in _files():
        for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
            if hit := MACHINE_PATH.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {hit.group().decode()}")
    assert not found, "\n".join(found)


def test_no_tracked_file_is_large() -> None:
    large = [
        f"{path.relative_to(ROOT)}: {path.stat().st_size / 2**20:.1f} MiB"
        for path in _files()
        if path.stat().st_size > 3 * 2**20
    ]
    assert not large, "\n".join(large)
