"""Reading a `.pt2` exported program without running anything it may hold.

A `.pt2` file is a zip archive with raw weights and a JSON graph. torch will unpickle what it finds
in one (weights marked `use_pickle`, custom objects, sample inputs). Of the JSON it makes Python: it
writes names into a function's text and executes that, evaluates expressions for sizes, imports what
a description of nested inputs names, and looks operators up. So names have to be names, expressions
arithmetic, and operators on a list. Whatever else could run code is refused before torch sees the
file, and torch gets an archive that is written from what was looked at: of a file with two tables
of contents, zipfile and torch read different ones.
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

from foldcam.export.models.program_operators import is_allowed
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import refuse_special
from foldcam.runtime.system.text import printable, shorten

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


_SYMBOL = re.compile(r"Symbol\('[suz]\d+'((, )(positive|nonnegative|integer)=(True|False))*\)")
_EXPRESSION = re.compile(r"[\w\s+\-*/%(),]*")
_EXPRESSION_NAMES = re.compile(
    r"([suz]\d+|u?int_oo|oo|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|Max|Min|Eq|Ne|Integer"
    r"|IntTrueDiv|TrueDiv|FloatTrueDiv|ToFloat|true|false)"
)
_PLAIN_TREES = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
# Names of values, arguments and parts of the graph: torch writes them into Python.
_NAMES = ("name", "as_name", "forward_arg_names")
_NAME = re.compile(r"([A-Za-z_]\w*(\.\w+)*)?", re.ASCII)
# Any other text, such as the name of a weight: nothing that ends or begins a text of Python.
_PLAIN = re.compile(r"[\w .:/+\-]*", re.ASCII)
# What is never more than a text to torch: arguments, versions; and those with rules of their own.
_FREE = ("as_string", "as_strings", "torch_version", "guards_code")
# The number of an unbacked symbol is counted up to, one by one.
_RANGE = re.compile(r"[a-z]{1,3}\d{1,6}", re.ASCII)


def refuse_document(path: Path, document: Any) -> None:
    """Refuse a document that could make torch run, import or write anything but operators."""
    for key, value in _walk(document):
        if key == "use_pickle" and value is not False:
            raise FoldcamError(
                f"{path} holds pickled tensors, which could run code when loaded: save the program "
                "again with plain tensors as weights."
            )
        if key in ("in_spec", "out_spec"):
            if not _is_plain_tree(value, _NAME if key == "in_spec" else _PLAIN):
                raise FoldcamError(
                    f"{path}: its {key} is not built of lists, tuples and dictionaries with plain "
                    "keys, and could import code when loaded: export the program again."
                )
        elif key in ("target", "as_operator") and isinstance(value, str):
            if not is_allowed(value):
                raise FoldcamError(
                    f"{path}: its graph calls {_shown(value)}, which is not an operator that a "
                    "program file may call (it must compute and do nothing else): name the "
                    "network as package.module:factory, or export it to ONNX and give that file."
                )
        elif key == "expr_str":
            if not (isinstance(value, str) and _harmless(value)):
                raise FoldcamError(f"{path}: {_shown(value)} is not an expression for a size.")
        elif key == "range_constraints":
            if not (isinstance(value, dict) and all(map(_RANGE.fullmatch, value))):
                raise FoldcamError(f"{path}: its range_constraints are of no symbols.")
        elif isinstance(value, str) and key not in _FREE and not _is_name(key, value):
            raise FoldcamError(
                f"{path}: {_shown(value)} is no name, and torch would execute it as Python: the "
                "file is damaged or was tampered with."
            )


def _is_name(key: str, text: str) -> bool:
    return bool((_NAME if key in _NAMES else _PLAIN).fullmatch(text))


def _shown(value: object) -> str:
    return repr(printable(shorten(str(value), 80)))


def _harmless(expression: str) -> bool:
    # torch evaluates these texts as Python.
    expression = _SYMBOL.sub("s0", expression)
    names = re.findall(r"[A-Za-z_]\w*", expression)
    if not _EXPRESSION.fullmatch(expression) or not all(map(_EXPRESSION_NAMES.fullmatch, names)):
        return False
    # 9**9**9 would keep torch busy for ever.
    powers = re.findall(r"\*\*\s*(\S*)", expression)
    return len(powers) < 4 and all(re.fullmatch(r"\d\)*,?", power) for power in powers)


def _is_plain_tree(text: object, keys: re.Pattern[str]) -> bool:
    """Whether a description of nested inputs or outputs names no Python class of its own.

    torch imports the modules that an enumeration or a defaultdict in it names, and makes
    arguments of a function from the keys of the inputs.
    """
    if text is None or text == "":
        return True
    try:
        document = json.loads(text) if isinstance(text, str) else None
        values = list(_walk(document))
        contexts = [_decoded(value) for key, value in values if key == "context"]
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(document, list)
        and all(key != "type" or value in _PLAIN_TREES for key, value in values)
        and all(
            context is None
            or (
                isinstance(context, list)
                and all(
                    isinstance(each, int) or (isinstance(each, str) and keys.fullmatch(each))
                    for each in context
                )
            )
            for context in contexts
        )
    )


def _decoded(context: object) -> object:
    return json.loads(context) if isinstance(context, str) else context


def _walk(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with the name it has; those in a list have the list's."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "metadata" and _is_free_text(inner):
                continue
            # Keys are names as well: of weights, of values.
            yield "", name
            yield name, inner
            if isinstance(inner, dict | list):
                yield from _walk(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield key, inner
            if isinstance(inner, dict | list):
                yield from _walk(inner, key)


def _is_free_text(metadata: object) -> bool:
    """Whether these are the notes at a node (its source line and so on), which are never run."""
    return isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())
