"""A folded model for photographs, which are no frames of a camera."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from foldcam.export.grafting.frame import take_out_frame
from foldcam.export.onnx_graphs.message import load_message
from foldcam.runtime.contract.bank.live_bank import bank_path
from foldcam.runtime.contract.onnx_file import read_contract


@contextmanager
def frameless(path: Path) -> Iterator[Path]:
    """The file itself, or of a model of whole frames a copy that takes the network's input.

    The pictures of a data set have all sizes. Resized to a frame first they would be shown
    otherwise than the camera's frames, and than the training images that the bank was built of.

    Args:
        path: the folded model, an .onnx file.

    Raises:
        FoldcamError: it cannot be read.
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
