"""What the JSON documents of a `.pt2` program may say.

torch makes Python of them: it writes names into a function's text and executes that, evaluates
expressions for sizes, imports what a description of nested inputs names, and looks operators
up. So names have to be names, expressions arithmetic, and operators on a list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foldcam.export.models.program_operators import is_allowed
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable, shorten

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
