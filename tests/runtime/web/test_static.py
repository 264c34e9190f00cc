"""The page's own files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
STATIC = ROOT / "runtime" / "web" / "static"
FILES = sorted(STATIC.iterdir())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_asks_another_host(path):
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"(?:https?:)?//(?=[\w-]+\.\w)|@import|\bimport\(", text)


def test_the_page_has_no_inline_script_or_style():
    text = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\bsrc=)", text)


def test_scripts_never_write_markup():
    for path in STATIC.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text
        )


def test_every_control_has_a_label_and_every_button_a_text():
    text = (STATIC / "index.html").read_text(encoding="utf-8")
    labelled = set(re.findall(r'<label for="([\w-]+)"', text))
    controls = set(re.findall(r'<(?:input|select)\b[^>]*\bid="([\w-]+)"', text))
    assert controls == labelled
    assert all(re.findall(r"<button[^>]*>([^<]*)</button>", text))
    assert 'lang="en"' in text
    assert "user-scalable" not in text


def test_every_id_that_scripts_ask_for_is_on_the_page():
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    ids = set(re.findall(r'\bid="([\w-]+)"', page))
    for path in STATIC.glob("*.js"):
        asked = set(re.findall(r'\bfind\("([\w-]+)"\)', path.read_text(encoding="utf-8")))
        assert asked <= ids, path.name


def test_no_script_is_longer_than_300_lines():
    long = [p.name for p in FILES if len(p.read_text(encoding="utf-8").splitlines()) > 300]
    assert long == []


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.parametrize("path", sorted(STATIC.glob("*.js")), ids=lambda path: path.name)
def test_scripts_are_javascript(path, tmp_path):
    module = tmp_path / f"{path.stem}.mjs"
    module.write_bytes(path.read_bytes())
    subprocess.run(["node", "--check", module], check=True)


def test_the_wheel_carries_the_page(tmp_path):
    """Built without isolation from a copy, so that nothing of this checkout is touched."""
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    shutil.copytree(ROOT / "src", copy / "src", symlinks=True)
    for part in ("benchmarks", "calibrate", "export", "runtime"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, copy],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"foldcam/runtime/web/static/{path.name}" for path in FILES} <= names
