"""Which model `runtime run` takes when none is named."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from foldcam.runtime.contract.onnx_file import is_folded
from foldcam.runtime.system.errors import FoldcamError

VARIABLE = "FOLDCAM_MODEL"
DEMO_MODEL = Path("demo-output") / "model.onnx"


def find_model(environment: Mapping[str, str] = os.environ, folder: Path | None = None) -> Path:
    """The variable `FOLDCAM_MODEL`, the only folded model here, or the demo's."""
    folder = Path() if folder is None else folder
    named = environment.get(VARIABLE)
    if named:
        if not Path(named).is_file():
            raise FoldcamError(f"{VARIABLE} names {named}, which does not exist.")
        return Path(named)
    models = [path for path in sorted(folder.glob("*.onnx")) if is_folded(path)]
    if len(models) > 1:
        names = ", ".join(str(path) for path in models)
        raise FoldcamError(
            f"There are several folded models here ({names}): name one, as in "
            f"`runtime run {models[0]}`."
        )
    if models:
        return models[0]
    if is_folded(folder / DEMO_MODEL):
        return folder / DEMO_MODEL
    raise FoldcamError(
        "No model is named and none is here: make one with `make demo` in a checkout of foldcam, "
        "or with `foldcam export demo --images FOLDER --out model.onnx`."
    )
