"""What a user gets who quantizes without further thought: ONNX Runtime's defaults."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import onnx

from foldcam.calibrate.graph import is_grafted, name_of
from foldcam.calibrate.selection import Pictures
from foldcam.export.onnx_graphs.message import load_message
from foldcam.runtime.contract.schema import IMAGE, Contract


def quantize_naively(
    model: onnx.ModelProto, contract: Contract, pictures: Pictures
) -> onnx.ModelProto:
    """Every operator of the network, static, per tensor, by the extremes (MinMax).

    What foldcam grafted is left out, so that it is the network alone which is compared.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._places = iter(range(len(pictures.resized)))

        def get_next(self) -> dict[str, Any] | None:
            place = next(self._places, None)
            if place is None:
                return None
            image = pictures.resized[place][None]
            uint8 = contract.input_type == "uint8"
            return {IMAGE: image if uint8 else contract.preprocessing.normalized(image)}

    named = onnx.ModelProto()
    named.CopyFrom(model)
    for node in named.graph.node:
        # It leaves nodes out by their names.
        node.name = name_of(node)
    excluded = [node.name for node in named.graph.node if is_grafted(node)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "naive.onnx"
        # It warns once per tensor that the model was not preprocessed.
        logging.disable(logging.WARNING)
        try:
            quantize_static(
                named,
                str(path),
                Reader(),
                quant_format=QuantFormat.QDQ,
                nodes_to_exclude=excluded,
            )
        finally:
            logging.disable(logging.NOTSET)
        return load_message(path)
