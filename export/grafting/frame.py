"""Grafting the frame: the camera's own picture, cropped, resized and padded in the graph.

Resizing with antialiasing is linear, and each axis has its own weights: two products with
constant matrices, which TensorRT takes where it refuses `Resize` with `antialias`. Where a line
shrinks they are small, because it falls into parts that are resized alike (see `blocks`). The
weights are those of OpenCV's INTER_AREA and INTER_LINEAR, and results are rounded to whole grey
levels where the host's preprocessing rounds to uint8, so that both make the same input within one.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from foldcam.export.grafting.in_graph import write_contract
from foldcam.export.grafting.input import PIXELS, PLANES
from foldcam.export.onnx_graphs.embedding_model import BATCH
from foldcam.export.onnx_graphs.message import load_message
from foldcam.export.onnx_graphs.values import refill
from foldcam.export.onnx_graphs.writing import PREFIX, Graft
from foldcam.runtime.contract.bank.live_bank import bank_path
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.contract.schema import IMAGE, Contract
from foldcam.runtime.images.preprocess import Preprocessing

Floats = npt.NDArray[np.float32]
_OURS = PREFIX + "frame_"
_FEWEST = 8
"""Pixels of a part of a resized line: products of fewer numbers are slower, as measured."""
_MANY = 200_000_000
"""Multiplications from which a processor takes longer than OpenCV, by a tenth and more."""


def graft_frame(graft: Graft, frame: tuple[int, int], preprocessing: Preprocessing) -> None:
    """`uint8 [N,height,width,3]` RGB frames in place of `uint8 [N,H,W,3]` of the network's size.

    Args:
        graft: of a network that takes uint8 images already.
        frame: `(width, height)` of the frames.
        preprocessing: how the network's input is made of them.
    """
    turned = next(node for node in graft.graph.node if node.name == PLANES)
    existing = [
        node
        for node in graft.graph.node
        if node != turned and PIXELS not in (*node.input, *node.output)
    ]
    # A network that was turned into float16 after it had taken uint8 turns its planes in float16.
    wanted = turned.output[0]
    del graft.graph.node[:]
    width, height = frame
    (x, y, across, down), (left, top, wide, high) = preprocessing.fit(width, height)
    # The cast comes first for TensorRT.
    taken = graft.node("Cast", [IMAGE], PIXELS, to=TensorProto.FLOAT)
    if (across, down) != frame:
        begin = graft.constant(_OURS + "begin", [y, x], np.int64)
        end = graft.constant(_OURS + "end", [y + down, x + across], np.int64)
        axes = graft.constant(_OURS + "axes", [1, 2], np.int64)
        taken = graft.node("Slice", [taken, begin, end, axes], _OURS + "region")
    planes = _resized(graft, taken, (down, across), (high, wide))
    if (wide, high) != (preprocessing.width, preprocessing.height):
        color = preprocessing.padding_color().reshape(1, 3, 1, 1)
        padding = graft.constant(_OURS + "padding", color, np.float32)
        right, bottom = preprocessing.width - left - wide, preprocessing.height - top - high
        around = [0, 0, top, left, 0, 0, bottom, right]
        pads = graft.constant(_OURS + "pads", around, np.int64)
        planes = graft.node("Sub", [planes, padding], _OURS + "above_padding")
        planes = graft.node("Pad", [planes, pads], _OURS + "padded")
        planes = graft.node("Add", [planes, padding], _OURS + "placed")
    graft.graph.node[-1].output[0] = PLANES
    if wanted != PLANES:
        graft.node("Cast", [PLANES], wanted, to=TensorProto.FLOAT16)
    graft.graph.node.extend(existing)
    _declare(graft.graph, width, height)


def without_frame(graph: onnx.GraphProto, preprocessing: Preprocessing) -> None:
    """Take out what `graft_frame` added: the graph takes images of the network's size again."""
    kept = [node for node in graph.node if not _is_ours(node)]
    del graph.node[:]
    graft = Graft(graph, 0)
    floats = graft.node("Cast", [IMAGE], PIXELS, to=TensorProto.FLOAT)
    graft.node("Transpose", [floats], PLANES, perm=[0, 3, 1, 2])
    graph.node.extend(kept)
    refill(
        graph.initializer,
        [tensor for tensor in graph.initializer if not tensor.name.startswith(_OURS)],
    )
    _declare(graph, preprocessing.width, preprocessing.height)


def take_out_frame(model: onnx.ModelProto, contract: Contract) -> Contract:
    """Turn a folded model of whole frames into the one that takes the network's input.

    Args:
        model: the folded model, which is changed.

    Returns:
        The contract that it has now.
    """
    if contract.frame is None:
        return contract
    without_frame(model.graph, contract.preprocessing)
    # Probe pictures are of the size that the model takes.
    contract = replace(contract, frame=None, canary=None)
    write_contract(model, contract)
    return contract


def frame_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """What `graft_frame` added alone: `uint8` frames -> planes `[N,3,H,W]`, from 0 to 255."""
    graph = onnx.GraphProto(name="frame")
    graph.input.extend(value for value in model.graph.input if value.name == IMAGE)
    graph.node.extend(node for node in model.graph.node if _is_ours(node))
    constants = (tensor for tensor in model.graph.initializer if tensor.name.startswith(_OURS))
    graph.initializer.extend(constants)
    shape: list[str | int] = [BATCH, 3, "height", "width"]
    graph.output.append(helper.make_tensor_value_info(PLANES, TensorProto.FLOAT, shape))
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def frame_notes(contract: Contract) -> list[str]:
    """What the user should know of a model that resizes whole frames by itself."""
    if contract.frame is None:
        return []
    (_, _, *before), (_, _, *after) = contract.preprocessing.fit(*contract.frame)
    (width, wide), (height, high) = zip(before, after, strict=True)
    count = 0
    if high != height:
        count += 3 * width * high * (height // blocks(height, high))
    if wide != width:
        count += 3 * high * wide * (width // blocks(width, wide))
    if count <= _MANY:
        return []
    return [
        f"Resizing a frame of {contract.frame[0]} x {contract.frame[1]} in the graph takes "
        f"{count // 1_000_000} million multiplications, because {width} and {wide}, or {height} "
        f"and {high}, have no large common divisor: on a processor the host does it faster, "
        "without --frame."
    ]


def resize_weights(before: int, after: int) -> Floats:
    """What each pixel of a line takes of the pixels of the line that it is resized from.

    Returns:
        `float32 [after, before]`, rows of sum 1: the share of each pixel in the area that is
        averaged where the line shrinks (INTER_AREA), else a linear interpolation between the
        centres of two pixels (INTER_LINEAR).
    """
    scale = before / after
    pixels = np.arange(before)
    if after < before:
        begin = np.arange(after)[:, None] * scale
        shared = np.minimum(pixels + 1, begin + scale) - np.maximum(pixels, begin)
        return np.asarray(np.maximum(shared, 0.0) / scale, np.float32)
    centre = np.clip((np.arange(after)[:, None] + 0.5) * scale - 0.5, 0, before - 1)
    return np.asarray(np.maximum(1.0 - np.abs(pixels - centre), 0.0), np.float32)


def _is_ours(node: onnx.NodeProto) -> bool:
    return node.name.startswith(_OURS) or bool({*node.output} & {PIXELS, PLANES})


def _resized(graft: Graft, taken: str, before: tuple[int, int], after: tuple[int, int]) -> str:
    """`[N,h,w,3]` -> planes `[N,3,h',w']` of whole grey levels."""
    shrinks = [new < old for old, new in zip(before, after, strict=True)]
    grows = [new > old for old, new in zip(before, after, strict=True)]
    (height, width), (high, wide) = before, after
    rows_last = shrinks[1] and grows[0]
    if high != height and not rows_last:
        # A line of pixels is a line of numbers: no transposition of whole frames.
        parts = blocks(height, high)
        taken = graft.reshape(taken, [0, parts, height // parts, 3 * width], _OURS + "lines")
        taken = graft.node("MatMul", [_weights(graft, "row", height, high), taken], _OURS + "fewer")
        taken = graft.reshape(taken, [0, high, width, 3], _OURS + "rows")
        if shrinks[0] and grows[1]:
            taken = graft.node("Round", [taken], _OURS + "whole_rows")
    planes = graft.node("Transpose", [taken], _OURS + "planes", perm=[0, 3, 1, 2])
    if wide != width:
        lines, parts = height if rows_last else high, blocks(width, wide)
        parted = [0, 3, lines * parts, width // parts]
        planes = graft.reshape(planes, parted, _OURS + "parts")
        weights = _weights(graft, "column", width, wide)
        planes = graft.node("MatMul", [planes, weights], _OURS + "fewer_parts")
        planes = graft.reshape(planes, [0, 3, lines, wide], _OURS + "columns")
        if rows_last:
            planes = graft.node("Round", [planes], _OURS + "whole_columns")
    if rows_last:
        planes = graft.node(
            "MatMul", [_weights(graft, "row", height, high), planes], _OURS + "more"
        )
    if before != after:
        planes = graft.node("Round", [planes], _OURS + "whole")
    return planes


def blocks(before: int, after: int) -> int:
    """Into how many equal parts a line falls that are resized alike, each by itself.

    Of 720 pixels that become 224, each 45 become 14. Where a line grows, each pixel takes of its
    neighbors across the parts' borders.
    """
    most = math.gcd(before, after) if after < before else 1
    return max(
        (n for n in range(1, most + 1) if most % n == 0 and after // n >= _FEWEST), default=1
    )


def _weights(graft: Graft, axis: str, before: int, after: int) -> str:
    """Of one part of a line, to stand before rows or behind columns."""
    parts = blocks(before, after)
    weights = resize_weights(before // parts, after // parts)
    name = f"{_OURS}{axis}_weights"
    return graft.constant(name, weights if axis == "row" else weights.T, np.float32)


def _declare(graph: onnx.GraphProto, width: int, height: int) -> None:
    image = next(value for value in graph.input if value.name == IMAGE)
    shape: list[str | int] = [BATCH, height, width, 3]
    image.CopyFrom(helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, shape))


@contextmanager
def frameless(path: Path) -> Iterator[Path]:
    """The file itself, or of a model of whole frames a copy that takes the network's input.

    The pictures of a data set have all sizes. Resized to a frame first they would be shown
    otherwise than the camera's frames, and than the training images that the bank was built of.

    Args:
        path: the folded model, an .onnx file.
    """
    contract = read_contract(path)
    if contract.frame is None:
        yield path
        return
    model = load_message(path)
    take_out_frame(model, contract)
    with tempfile.TemporaryDirectory(prefix="foldcam-frameless-") as folder:
        copy = Path(folder) / path.name
        onnx.save(model, copy)
        if contract.bank_input is not None and bank_path(path).exists():
            shutil.copyfile(bank_path(path), bank_path(copy))
        yield copy
