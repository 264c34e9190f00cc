"""The repository's promises about itself: who imports whom, what is pinned, what files say."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from imports import PACKAGES, at_import_time, imported, modules, parsed
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

FORBIDDEN = {
    "runtime": {"export", "calibrate", "benchmarks", "torch", "onnx"},
    "export": {"calibrate", "benchmarks"},
    "calibrate": {"benchmarks"},
    "benchmarks": set(),
}


# Who imports whom


MODULES = modules(ROOT)


def _parse(module: str) -> ast.Module:
    return parsed(MODULES[module])


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_the_dependency_rule_allows(module: str) -> None:
    names = imported(_parse(module), module, MODULES[module], MODULES)
    forbidden = {name.split(".")[0] for name in names} & FORBIDDEN[module.split(".")[0]]
    assert not forbidden, f"{module} imports {', '.join(sorted(forbidden))}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    edges = {
        module: sorted(
            set(
                imported(
                    at_import_time(ast.parse(path.read_text(encoding="utf-8"))),
                    module,
                    path,
                    MODULES,
                )
            )
            & set(MODULES) - {module}
        )
        for module, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, "circle: " + " -> ".join(
            [*trail[trail.index(module) :], module]
        )
        if module not in done:
            for other in edges[module]:
                visit(other, (*trail, module))
            done.add(module)

    for module in edges:
        visit(module, ())


# What is installed


def test_every_extra_is_a_list_of_valid_requirements() -> None:
    for name, requirements in EXTRAS.items():
        assert requirements, f"the extra {name} is empty"
        for requirement in requirements:
            Requirement(requirement)


def test_the_base_install_has_what_a_device_needs_and_no_more() -> None:
    names = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    # tomli is the standard library's tomllib for Python 3.10.
    assert names == {"numpy", "typer", "tomli"}


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
        # Result files are what the documents' tables are written from, in a checkout.
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
