"""Who imports whom, read from the sources without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Installed as foldcam.export and so on; here they are named as the folders are.
PACKAGES = ("export", "runtime", "calibrate", "benchmarks")
PREFIX = "foldcam."


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the four packages by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def parsed(path: Path) -> ast.Module:
    """A module's syntax tree, parsed once: hundreds of tests read them. Nobody may change it."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.AST, module: str, path: Path, known: Mapping[str, object]) -> Iterator[str]:
    """The dotted names that a piece of code imports, also by importlib; ours without `foldcam.`.

    Args:
        tree: the code.
        module: its dotted name, which relative imports start from.
        path: its file.
        known: names of modules: of `from package import name` it is told by them whether
            `name` is a module of its own.
    """
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix(PREFIX) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])]).removeprefix(PREFIX)
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield inner if inner in known else source
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
            if name in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield node.args[0].value.removeprefix(PREFIX)


def at_import_time(tree: ast.Module) -> ast.Module:
    """Cut off what does not run at import: functions and TYPE_CHECKING blocks."""

    class Prune(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:  # noqa: ARG002
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:  # noqa: ARG002
            return None

        def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
            if "TYPE_CHECKING" in ast.unparse(node.test):
                return node.orelse
            return self.generic_visit(node)

    Prune().visit(tree)
    return tree


def edges(known: Mapping[str, Path]) -> dict[str, set[str]]:
    """For each module those of `known` that it imports, inside functions and for types too."""
    return {
        module: {
            name
            for name in imported(parsed(path), module, path, known)
            if name in known and name != module
        }
        for module, path in known.items()
    }
