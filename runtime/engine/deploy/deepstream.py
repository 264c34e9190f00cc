"""A folded model as a secondary `nvinfer` of DeepStream: configuration, model, and a probe.

`nvinfer` makes `y = net-scale-factor * (pixel - offset)` of each channel, in float, with one factor
for all channels (Gst-nvinfer, *Gst-nvinfer File Configuration Specifications*). What it cannot say
has to be in the graph: a model of bytes normalises there, and is given its bytes as floats.
"""

from __future__ import annotations

import json
import mmap
from dataclasses import dataclass
from pathlib import Path

from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.protobuf import VARINT, Buffer, fields, length_delimited
from foldcam.runtime.contract.schema import IMAGE, Contract
from foldcam.runtime.contract.tensors import expected_tensors
from foldcam.runtime.engine.deploy import deepstream_probe
from foldcam.runtime.engine.deploy.folder import (
    LABELS,
    checked_name,
    copy_model,
    whole_folder,
    write_labels,
    write_readme,
)
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable

UNIQUE_ID = 2
CONFIG, PROBE, ABOUT = "config_infer_secondary.txt", "foldcam_probe.py", "foldcam.json"
_ONNX, _ENGINE = "model.onnx", "model.engine"
# Relative to the largest; what is closer is one number written in two ways.
_EQUAL = 1e-4
_FLOAT, _UINT8 = 1, 2
_GRAPH, _INPUT = 7, 11


@dataclass(frozen=True)
class DeepStreamOptions:
    """How the model is run."""

    name: str | None = None
    max_batch: int = 8


def write_deepstream(model: Path, folder: Path, options: DeepStreamOptions) -> tuple[Path, str]:
    """Write a folder with all that a pipeline needs.

    Returns:
        The model's own folder, and what differs from `runtime run`, in one sentence.

    Raises:
        FoldcamError: it is no folded model, has further inputs, takes whole frames, divides
            channels by different numbers outside of the graph, or the folder cannot be written.
    """
    contract = read_contract(model)
    if contract.bank_input is not None or contract.query:
        raise FoldcamError(
            f"{model}: nvinfer gives a model its picture and nothing else: fold it without "
            "--bank-input and --query."
        )
    if contract.frame is not None:
        raise FoldcamError(
            f"{model} takes whole frames (--frame), and nvinfer gives a model objects that it has "
            "resized itself: fold it with --frame none."
        )
    text = config_text(contract, str(model), options)
    name = checked_name(options.name or model.stem)
    with whole_folder(folder / name) as made:
        copy_model(model, made / _ONNX)
        if contract.input_type == "uint8":
            take_floats(made / _ONNX)
        (made / CONFIG).write_text(text, encoding="ascii")
        (made / ABOUT).write_text(json.dumps(_about(contract), indent=2) + "\n", encoding="ascii")
        write_labels(made, contract)
        source = Path(deepstream_probe.__file__).read_text(encoding="utf-8")
        (made / PROBE).write_text(source, encoding="utf-8")
        write_readme(made, _readme(contract, name, options))
    return folder / name, _difference(contract.preprocessing)


def config_text(contract: Contract, where: str, options: DeepStreamOptions) -> str:
    """The configuration of `nvinfer`."""
    recipe = contract.preprocessing
    bytes_in = contract.input_type == "uint8"
    factor, offsets = (1.0, (0.0,) * 3) if bytes_in else _normalisation(recipe, where)
    letterbox = int(recipe.resize == "letterbox")
    keys = {
        "gpu-id": 0,
        "gie-unique-id": UNIQUE_ID,
        "process-mode": 2,
        "operate-on-gie-id": 1,
        # 100: none that nvinfer knows; it hands on the outputs as they are.
        "network-type": 100,
        "output-tensor-meta": 1,
        "onnx-file": _ONNX,
        "model-engine-file": _ENGINE,
        "batch-size": options.max_batch,
        "network-mode": 2 if contract.precision == "fp16" else 0,
        "network-input-order": int(bytes_in),
        # What is in the graph of a model of bytes begins at RGB.
        "model-color-format": int(not bytes_in and recipe.color == "bgr"),
        "net-scale-factor": f"{factor:.10g}",
        "offsets": ";".join(f"{each:.8g}" for each in offsets),
        "maintain-aspect-ratio": letterbox,
        "symmetric-padding": letterbox,
        "scaling-filter": 1,
        "output-blob-names": ";".join(each.name for each in expected_tensors(contract)[1]),
        # Every frame: a tracked object is another picture each time.
        "secondary-reinfer-interval": 0,
    }
    lines = [f"{key}={value}" for key, value in keys.items()]
    return "\n".join(["[property]", *lines]) + "\n"


def _normalisation(recipe: Preprocessing, where: str) -> tuple[float, tuple[float, ...]]:
    """`net-scale-factor` and `offsets`, in the order of the network's own channels."""
    if max(recipe.std) - min(recipe.std) > _EQUAL * max(recipe.std):
        std = ", ".join(f"{each:g}" for each in recipe.std)
        raise FoldcamError(
            f"{where} divides its channels by {std}, and nvinfer has one number for all of them: "
            "export it with --input uint8, which normalises in the graph."
        )
    return 1.0 / (255.0 * recipe.std[0]), tuple(255.0 * each for each in recipe.mean)


def _about(contract: Contract) -> dict[str, object]:
    """What the probe must know."""
    outputs = expected_tensors(contract)[1]
    rule = contract.unknown
    return {
        "unique_id": UNIQUE_ID,
        "outputs": {each.name: [each.dtype, list(each.shape[1:])] for each in outputs},
        "unknown": None if rule is None else {"score": rule.score, "threshold": rule.threshold},
    }


def _difference(recipe: Preprocessing) -> str:
    """How nvinfer's pictures differ from foldcam's own."""
    if recipe.resize == "crop":
        return (
            "nvinfer has no centre crop, so that it stretches each object, where this model was "
            "made from crops."
        )
    if recipe.resize == "letterbox":
        return "nvinfer pads with black, where foldcam pads with the mean colour."
    return "nvinfer resizes with a filter of its own, so that its answers differ a little."


def _readme(contract: Contract, name: str, options: DeepStreamOptions) -> str:
    image = expected_tensors(contract)[0]
    sizes = "x".join(map(str, image.shape[1:]))
    most = options.max_batch
    typed = contract.precision == "fp16" or contract.calibration is not None
    return (
        f"# {name} in DeepStream\n\n{printable(contract.summary())}.\n\n"
        f"`{CONFIG}` is a secondary `nvinfer` that looks at the objects of the one with "
        "`gie-unique-id=1` (`operate-on-gie-id`). For whole frames set `process-mode=1`, and read "
        "`frame_user_meta_list` in place of `obj_user_meta_list`.\n\n"
        "Build the engine where it runs; without it nvinfer builds one by itself at the first "
        "start:\n\n"
        f"```sh\ntrtexec --onnx={_ONNX} --saveEngine={_ENGINE} --minShapes={IMAGE}:1x{sizes} \\\n"
        f"  --optShapes={IMAGE}:{most}x{sizes} --maxShapes={IMAGE}:{most}x{sizes} --noTF32"
        f"{' --stronglyTyped' if typed else ''}\n```\n\n"
        f"`{PROBE}` reads label, similarity and map of each object; its first lines show how it is "
        f"attached. `{ABOUT}` and `{LABELS}` belong to it.\n\n"
        f"{_difference(contract.preprocessing)}\n"
        + (
            f"\n`{_ONNX}` takes the bytes of the model that this folder was made from as floats, "
            "since nvinfer gives no others; it is for nvinfer alone.\n"
            if contract.input_type == "uint8"
            else ""
        )
    )


def take_floats(path: Path) -> None:
    """Declare the input `image` of an ONNX file as float32 in place of uint8."""
    with path.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as buffer:
        places = list(_places(buffer))
        if len(places) != 1:
            raise FoldcamError(f"{path} has no input {IMAGE!r} of bytes.")
        buffer[places[0]] = _FLOAT


def _places(buffer: Buffer) -> list[int]:
    """Where the type of the input stands: `graph.input[].type.tensor_type.elem_type`."""
    places = []
    for graph, start, end in length_delimited(buffer, 0, len(buffer)):
        for number, low, high in length_delimited(buffer, start, end) if graph == _GRAPH else ():
            if number != _INPUT:
                continue
            name, place = b"", None
            for field, first, last in length_delimited(buffer, low, high):
                if field == 1:
                    name = bytes(buffer[first:last])
                elif field == 2:
                    place = _element_type(buffer, first, last)
            if name == IMAGE.encode() and place is not None:
                places.append(place)
    return places


def _element_type(buffer: Buffer, start: int, end: int) -> int | None:
    for field, first, last in length_delimited(buffer, start, end):
        if field == 1:
            for number, wire, value, stop in fields(buffer, first, last):
                if (number, wire, value) == (1, VARINT, _UINT8):
                    return stop - 1
    return None
