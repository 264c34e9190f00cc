"""The ground floor: `runtime` imports neither torch nor onnx nor another package of foldcam."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(("foldcam", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in (ROOT / "runtime").rglob("*.py")
)
BLOCK = """
import sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if any(name == each or name.startswith(each + '.') for each in {blocked!r}):
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Wall())
"""
RUN = """
import runpy, sys
sys.argv = ['runtime', *{arguments!r}]
runpy.run_module('foldcam.runtime', run_name='__main__')
"""
# Each costs a run some milliseconds of its start, and it needs none of them.
HEAVY_IN_A_RUN = (
    *(
        "foldcam.runtime.cli.machine",
        "foldcam.runtime.engine.builder",
        "foldcam.runtime.engine.manifest",
        "foldcam.runtime.engine.inspect",
    ),
    *(
        "foldcam.runtime.measurement.comparison.self_test",
        "asyncio",
        "matplotlib",
        "rich",
        "scipy",
        "tensorrt",
        "tensorrt_rtx",
    ),
)
FORBIDDEN = (
    *("torch", "onnx", "onnxscript", "onnx_ir"),
    *("foldcam.export", "foldcam.calibrate", "foldcam.benchmarks"),
)


def fresh(code: str, environment: dict[str, str], blocked: tuple[str, ...] = ()) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=blocked) + code],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_imports_without_torch_and_onnx(child_environment):
    code = f"import importlib\nfor name in {MODULES!r}: importlib.import_module(name)\nprint('ok')"
    assert fresh(code, child_environment(), FORBIDDEN) == "ok\n"


def test_help_answers_without_anything_heavy(child_environment):
    code = RUN.format(arguments=["--help"])
    heavy = (*FORBIDDEN, "numpy", "cv2", "onnxruntime")
    assert "Usage" in fresh(code, child_environment(), heavy)


def test_inspect_needs_no_onnxruntime(child_environment, tiny_model):
    code = RUN.format(arguments=["inspect", str(tiny_model)])
    assert "bank" in fresh(code, child_environment(), (*FORBIDDEN, "onnxruntime"))


def test_doctor_survives_a_bare_machine(child_environment):
    code = RUN.format(arguments=["doctor"])
    out = fresh(code, child_environment(), (*FORBIDDEN, "onnxruntime", "cv2", "tensorrt_rtx"))
    assert "missing  onnxruntime" in out
    assert "missing  opencv" in out


def test_import_is_cheap_and_lazy(child_environment):
    code = (
        "import foldcam, sys\nfoldcam.FoldedModel\n"
        "assert not {'cv2', 'onnxruntime', 'torch', 'onnx'} & set(sys.modules)\nprint('ok')"
    )
    assert fresh(code, child_environment()) == "ok\n"


def test_unknown_name_is_an_attribute_error():
    import foldcam

    with pytest.raises(AttributeError, match="'nothing'"):
        _ = foldcam.runtime.nothing


def test_a_run_loads_neither_the_builder_of_engines_nor_what_only_it_needs(
    child_environment, tiny_model, tmp_path
):
    from foldcam.runtime import write_image

    photo = tmp_path / "photo.png"
    write_image(photo, np.zeros((8, 8, 3), np.uint8))
    arguments = ["runtime", "run", str(tiny_model), "--file", str(photo), "--quiet"]
    code = (
        f"import sys; sys.argv = {arguments!r} + ['--save', {str(tmp_path / 'out')!r}]\n"
        "from foldcam.runtime.cli.runtime import app\n"
        "from foldcam.runtime.system.command import run_app\n"
        "try: run_app(app, 'runtime')\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"print(sorted(set({HEAVY_IN_A_RUN!r}) & set(sys.modules)))"
    )
    assert fresh(code, child_environment(), FORBIDDEN).splitlines()[-1] == "[]"
