"""The float model that is to be quantized: read, and refused where it cannot be."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import onnx

from foldcam.export.grafting.frame import graft_frame, take_out_frame
from foldcam.export.grafting.in_graph import bank_of, contract_of, write_contract
from foldcam.export.grafting.probes import canary_of, write_canary
from foldcam.export.onnx_graphs.embedding_model import opset_of
from foldcam.export.onnx_graphs.message import load_message
from foldcam.export.onnx_graphs.precision import is_float16
from foldcam.export.onnx_graphs.writing import Graft
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.system.errors import FoldcamError


def read_source(path: Path) -> tuple[onnx.ModelProto, Contract]:
    """A folded float32 model and its contract, without what makes the input of whole frames.

    That part is no matter of calibration, which `with_frame` puts back.
    """
    contract = read_contract(path)
    if contract.scores is not None:
        raise FoldcamError(
            f"{path} is a classifier: calibrate judges a model by its bank of training images, "
            "which a classifier has not; export it with --precision fp16 instead."
        )
    model = load_message(path)
    if contract.calibration is not None:
        raise FoldcamError(
            f"{path} is quantized already: calibrate the float32 model that it was made from."
        )
    if contract.precision != "fp32" or is_float16(model):
        raise FoldcamError(
            f"{path} is in float16: export it with --precision fp32 and calibrate that."
        )
    bank_of(model, contract)
    return model, take_out_frame(model, contract)


def with_frame(model: onnx.ModelProto, frame: tuple[int, int] | None) -> onnx.ModelProto:
    """The model with what makes its input of whole frames of a size, if there is one."""
    if frame is None:
        return model
    framed = onnx.ModelProto()
    framed.CopyFrom(model)
    contract = replace(contract_of(model), frame=frame)
    graft_frame(Graft(framed.graph, opset_of(framed)), frame, contract.preprocessing)
    write_contract(framed, contract)
    # Probe pictures are of the size that the model takes.
    write_canary(framed, canary_of(framed))
    onnx.checker.check_model(framed, full_check=True)
    return framed


def check_names(wanted: tuple[str, ...], names: list[str]) -> None:
    """Whether the layers that are to stay in float exist."""
    if wanted in (("none",), ("auto",)):
        return
    for name in wanted:
        if name not in names:
            near = get_close_matches(name, names, 3) or names[:3]
            raise FoldcamError(
                f"--keep-float: the network has no layer {name!r} that could be quantized; it has "
                f"{', '.join(near)} and others."
            )
