"""Reading a `.pt2` exported program without running anything it may hold.

A `.pt2` file is a zip archive with raw weights and a JSON graph, but torch will
also unpickle what it finds in one (weights marked `use_pickle`, custom objects,
sample inputs), evaluate expressions for sizes, and look operators up by name.
Whatever could run code is refused before torch sees the file.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runtime.errors import FoldcamError
from runtime.files import refuse_special

_PLAIN_ENTRY = re.compile(
    r"(data/weights/weight_\d+|data/constants/tensor_\d+|byteorder|archive_format"
    r"|archive_version|\.data/(version|serialization_id|\w+)|models/[\w.-]+\.json"
    r"|data/(weights|constants)/[\w.-]+_config\.json|extra/[\w./-]+)"
)
_SAMPLE_INPUTS = re.compile(r"data/sample_inputs/[\w.-]+\.pt")
_OPERATOR = re.compile(
    r"torch\.ops\.aten\.\w+(\.\w+)?|torch\.ops\.higher_order\.\w+|torch\.sym_\w+"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|and_|or_|not_"
    r"|getitem|lshift|rshift)"
)
_SYMBOL = re.compile(r"Symbol\('[suz]\d+'((, )(positive|nonnegative|integer)=(True|False))*\)")
_EXPRESSION = re.compile(r"[\w\s+\-*/%(),]*")
_EXPRESSION_NAMES = re.compile(
    r"([suz]\d+|u?int_oo|oo|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|Max|Min|Eq|Ne|Integer"
    r"|IntTrueDiv|TrueDiv|FloatTrueDiv|ToFloat|true|false)"
)
_PLAIN_TREES = (
    None,
    "builtins.tuple",
    "builtins.list",
    "builtins.dict",
    "collections.OrderedDict",
)


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
    """Load a `.pt2` exported program as a module.

    Raises:
        FoldcamError: the file is missing, is not an exported program, holds
            pickles or anything else that could run code, or is in training mode.
    """
    refuse_special(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FoldcamError(f"{path} cannot be read: {error.strerror}.") from None
    _refuse_code(path, data)
    try:
        program = torch.export.load(io.BytesIO(data))
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


def _refuse_code(path: Path, data: bytes) -> None:
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
        document = json.loads(content)
        values = list(_walk(document))
    except (ValueError, RecursionError):
        raise FoldcamError(f"{path}: {name} is not JSON; the file is damaged.") from None
    for key, value in values:
        if key == "use_pickle" and value is not False:
            raise FoldcamError(
                f"{path} holds pickled tensors, which could run code when loaded: save the program "
                "again with plain tensors as weights."
            )
        if key in ("in_spec", "out_spec") and not _is_plain_tree(value):
            raise FoldcamError(
                f"{path}: its {key} is not built of lists, tuples and dictionaries, and could "
                "import code when loaded: export the program again."
            )
        if key == "target" and isinstance(value, str) and not _OPERATOR.fullmatch(value):
            raise FoldcamError(f"{path}: its graph calls {value[:80]!r}, not an operator of torch.")
        if key == "expr_str" and not (isinstance(value, str) and _harmless(value)):
            raise FoldcamError(f"{path}: {str(value)[:80]!r} is not an expression for a size.")


def _harmless(expression: str) -> bool:
    # torch evaluates these texts as Python.
    expression = _SYMBOL.sub("s0", expression)
    names = re.findall(r"[A-Za-z_]\w*", expression)
    if not _EXPRESSION.fullmatch(expression) or not all(map(_EXPRESSION_NAMES.fullmatch, names)):
        return False
    # 9**9**9 would keep torch busy for ever.
    powers = re.findall(r"\*\*\s*(\S*)", expression)
    return len(powers) < 4 and all(re.fullmatch(r"\d\)*,?", power) for power in powers)


def _is_plain_tree(text: object) -> bool:
    """Whether a description of nested inputs or outputs names no Python class of its own.

    torch imports the modules that an enumeration or a defaultdict in it names.
    """
    if text is None or text == "":
        return True
    try:
        document = json.loads(text) if isinstance(text, str) else None
        values = list(_walk(document))
    except (ValueError, RecursionError):
        return False
    return isinstance(document, list) and all(
        (key != "type" or value in _PLAIN_TREES) and (key != "context" or not _names_a_class(value))
        for key, value in values
    )


def _names_a_class(context: object) -> bool:
    text = json.dumps(context)
    return "__enum__" in text or "default_factory" in text or "\\\\u" in text


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)
