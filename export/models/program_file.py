"""Reading a `.pt2` exported program without running anything it may hold.

A `.pt2` file is a zip archive with raw weights and a JSON graph, which
`export.models.program_graph` looks at. But torch will also unpickle what it finds in one
(weights marked `use_pickle`, custom objects, sample inputs). Whatever could run code is refused
before torch sees the file, and torch gets an archive that is written from what was looked at:
of a file with two tables of contents, zipfile and torch read different ones.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foldcam.export.models.program_graph import refuse_document
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import refuse_special

_PLAIN_ENTRY = re.compile(
    r"(data/weights/weight_\d+|data/constants/tensor_\d+|byteorder|archive_format"
    r"|archive_version|\.data/(version|serialization_id|\w+)|models/[\w.-]+\.json"
    r"|data/(weights|constants)/[\w.-]+_config\.json|extra/[\w./-]+)"
)
_SAMPLE_INPUTS = re.compile(r"data/sample_inputs/[\w.-]+\.pt")

# Operators with a switch for training, and its place among the arguments.
_TRAINING_ARGUMENT: dict[Any, int] = {
    torch.ops.aten.dropout.default: 2,
    torch.ops.aten.dropout_.default: 2,
    torch.ops.aten.feature_dropout.default: 2,
    torch.ops.aten.batch_norm.default: 5,
}


class _Program(nn.Module):
    """An exported program as an ordinary module, so that it is exported like any other."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        # Not `graph`: torch would mistake its parameters' paths for its own attribute.
        self.program = graph

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image `float32 [N, 3, H, W]` -> embedding."""
        result: torch.Tensor = self.program(image)
        return result

    def eval(self) -> _Program:
        # A program was exported in eval mode or not; calling eval() on it raises.
        return self

    def train(self, _mode: bool = True) -> _Program:
        return self


def load_program(path: Path) -> nn.Module:
    """Load a `.pt2` exported program as a module."""
    refuse_special(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FoldcamError(f"{path} cannot be read: {error.strerror}.") from None
    entries = _harmless_entries(path, data)
    try:
        program = torch.export.load(_archive(entries))
        graph = program.module(check_guards=False)
    except Exception as error:
        # torch raises many unrelated types for a file of another torch version.
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise FoldcamError(f"{path} cannot be loaded by torch {torch.__version__}: {first}") from (
            error
        )
    if any(map(_trains, program.graph.nodes)):
        raise FoldcamError(
            f"{path} was exported in training mode (dropout or batch norm is active): export "
            "module.eval() again."
        )
    return _Program(graph)


def _trains(node: torch.fx.Node) -> bool:
    position = _TRAINING_ARGUMENT.get(node.target)
    return position is not None and position < len(node.args) and node.args[position] is True


def _harmless_entries(path: Path, data: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if len({info.filename.lower() for info in infos}) != len(infos):
                # Which of the two torch reads is for torch to say.
                raise FoldcamError(f"{path} holds two entries of one name: it was tampered with.")
            if sum(info.file_size for info in infos) > len(data):
                raise FoldcamError(
                    f"{path} is compressed, which torch.export.save does not do: save it again."
                )
            entries = {info.filename: archive.read(info) for info in infos}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise FoldcamError(f"{path} is not a .pt2 exported program ({error}).") from None
    for full_name, content in entries.items():
        name = full_name.partition("/")[2]
        if _SAMPLE_INPUTS.fullmatch(name):
            _refuse_unless_plain_tensors(path, content)
        elif not _PLAIN_ENTRY.fullmatch(name):
            raise FoldcamError(
                f"{path} holds {name!r}, which could be a pickle and run code when loaded: save "
                "the program again with torch.export.save of a current torch."
            )
        if name.endswith(".json"):
            _refuse_document(path, name, content)
    return entries


def _archive(entries: dict[str, bytes]) -> io.BytesIO:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    stream.seek(0)
    return stream


def _refuse_unless_plain_tensors(path: Path, content: bytes) -> None:
    if not content:
        return
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception:
        # torch would fall back to unpickling it.
        raise FoldcamError(
            f"{path}: its sample inputs hold pickled objects, which could run code when loaded: "
            "export the program again with plain tensors as inputs."
        ) from None


def _refuse_document(path: Path, name: str, content: bytes) -> None:
    try:
        document: Any = json.loads(content)
        refuse_document(path, document)
    except (ValueError, RecursionError):
        raise FoldcamError(f"{path}: {name} is not JSON; the file is damaged.") from None
