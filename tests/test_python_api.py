"""What the documents say of the Python API is true: the names exist, and the code runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import foldcam

ROOT = Path(__file__).resolve().parent.parent
# What users import most, and what the documents' examples are made of.
MOST_IMPORTED = (
    "FoldedModel",
    "Result",
    "check_model",
    "draw_result",
    "export_model",
    "fold_file",
    "heatmap_on_frame",
    "inspect_model",
    "load_dataset",
    "load_model",
    "read_contract",
    "read_image",
    "train",
    "verify_model",
    "write_image",
)
PACKAGES = ("foldcam.runtime", "foldcam.export", "foldcam.calibrate")


def blocks(page: str) -> list[str]:
    """The Python of a page, block by block; its path is from docs/."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run(page: str, names: dict[str, Any]) -> dict[str, Any]:
    """Execute a page's blocks one after the other, as a reader would paste them."""
    for number, block in enumerate(blocks(page), start=1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)
    return names


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is left when the tutorial has run, and the folder that it ran in."""
    folder = tmp_path_factory.mktemp("tutorial")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return run("tutorial.md", {"__name__": "tutorial", "folder": folder})


@pytest.fixture
def beside_the_model(
    tutorial: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with what the tutorial made, and its network as a module of its own."""
    folder = tmp_path / "here"
    shutil.copytree(tutorial["folder"], folder)
    network = next(block for block in blocks("tutorial.md") if "class Network" in block)
    definition = network[: network.index("torch.manual_seed")]
    size = "    preprocessing = Preprocessing(width=96, height=96)\n\n    def __init__"
    definition = definition.replace("    def __init__", size)
    factory = "def make_network():\n    torch.manual_seed(0)\n    return Network()\n"
    (folder / "my_network.py").write_text(f"{definition}\n{factory}")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_the_tutorial_runs_and_its_heat_is_on_the_disc(tutorial):
    result, (x, y) = tutorial["result"], tutorial["centre"]
    assert result.labels == ["red"]
    hottest = result.hottest()
    assert np.hypot(hottest[0] - x, hottest[1] - y) < 12  # the disc's radius
    assert tutorial["verified"].passed
    assert tutorial["checked"].passed
    assert (tutorial["folder"] / "seen.jpg").is_file()


def test_the_twenty_lines_are_twenty():
    (network,) = (block for block in blocks("tutorial.md") if "class Network" in block)
    assert sum(bool(line.strip()) for line in network.splitlines()) <= 20


def test_the_examples_of_the_api_page_run(beside_the_model):
    names = run("api.md", {"__name__": "api"})
    assert names["folded"].replaced is not None
    assert names["report"].contract.input_type == "uint8"


def test_the_example_of_the_readme_runs(beside_the_model):
    names = run("../README.md", {"__name__": "readme"})
    assert names["result"].labels == ["red"]


@pytest.mark.parametrize("name", ["foldcam", "foldcam.runtime", "foldcam.export"])
def test_the_examples_of_packages_run(name, beside_the_model):
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.attempted
    assert not results.failed


@pytest.mark.parametrize("name", MOST_IMPORTED)
def test_the_example_of_a_public_name_runs(name, beside_the_model):
    examples = doctest.DocTestFinder().find(getattr(foldcam, name), name, globs={})
    assert examples[0].examples, "its own docstring has an example"
    for example in examples:
        assert not doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example).failed


@pytest.mark.parametrize("name", MOST_IMPORTED)
def test_a_docstring_says_what_it_takes_and_raises(name):
    public = getattr(foldcam, name)
    text = inspect.getdoc(public) or ""
    for parameter in inspect.signature(public).parameters:
        assert re.search(rf"^    {parameter}: \S", text, re.MULTILINE), parameter
    # A result is made by a model, and not by a user.
    assert ("\nRaises:\n" in text) == (name != "Result")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_public_names_are_those_of_the_api_page(package):
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    pattern = rf"^## `{package}`.*?$(.*?)(?=^## |\Z)"
    (section,) = re.findall(pattern, text, re.MULTILINE | re.DOTALL)
    table = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", section.split("```")[0], re.MULTILINE)
    listed = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    assert listed == set(importlib.import_module(package).__all__)


def names_in_modules_of_their_own() -> set[tuple[str, str]]:
    """Module and name of what the API page promises besides the packages' own names."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    section = text.split("## Names in modules of their own")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(foldcam\.[\w.]+)` \| ([^|]+) \|", section, re.MULTILINE)
    return {(module, name) for module, cell in rows for name in re.findall(r"`(\w+)`", cell)}


def test_names_in_modules_of_their_own_are_there():
    promised = names_in_modules_of_their_own()
    assert len(promised) > 20
    for module, name in promised:
        assert getattr(importlib.import_module(module), name).__doc__ or name == "Array", name


def test_documents_and_examples_import_only_what_the_api_page_promises():
    promised = names_in_modules_of_their_own()
    promised |= {(name, each) for name in ("foldcam", *PACKAGES) for each in _public(name)}
    pattern = re.compile(r"^ *from (foldcam[\w.]*) import (\([^)]*\)|.*)$", re.MULTILINE)
    for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.py")):
        for module, names in pattern.findall(path.read_text(encoding="utf-8")):
            wanted = {(module, name) for name in re.findall(r"\w+", names)}
            assert wanted <= promised, (path.name, wanted - promised)


def _public(name: str) -> list[str]:
    return list(importlib.import_module(name).__all__)


def test_the_package_itself_offers_the_names_of_runtime_and_export():
    parts = [importlib.import_module(f"foldcam.{part}") for part in ("runtime", "export")]
    assert set(foldcam.__all__) == {name for part in parts for name in part.__all__}
    for part in parts:
        assert all(getattr(foldcam, name) is getattr(part, name) for name in part.__all__)


@pytest.mark.parametrize("package", ["foldcam", *PACKAGES])
def test_a_public_name_is_documented_and_listed(package):
    module = importlib.import_module(package)
    assert list(module.__all__) == sorted(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name).__doc__, name


def test_a_name_that_is_not_public_is_an_attribute_error():
    for package in PACKAGES:
        with pytest.raises(AttributeError, match="'nothing'"):
            _ = importlib.import_module(package).nothing
