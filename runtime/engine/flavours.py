"""Which TensorRT is installed: JetPack's or the desktop's `tensorrt`, or `tensorrt_rtx`."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, get_args

from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable, shorten

FlavourName = Literal["tensorrt", "tensorrt_rtx"]
FLAVOUR_NAMES: tuple[FlavourName, ...] = get_args(FlavourName)
Wanted = Literal["auto", "tensorrt", "rtx"]

# Strong typing is there since 9, but complete only from here on.
_TYPED_SINCE = (10, 12)
_NAMES: dict[Wanted, tuple[FlavourName, ...]] = {
    "auto": ("tensorrt", "tensorrt_rtx"),
    "tensorrt": ("tensorrt",),
    "rtx": ("tensorrt_rtx",),
}
_TITLES: dict[FlavourName, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_INSTALL: dict[FlavourName, str] = {
    "tensorrt": "on a Jetson it comes with JetPack (apt install python3-libnvinfer, and an "
    "environment made with `python3 -m venv --system-site-packages`), on a desktop with "
    "`pip install tensorrt`",
    "tensorrt_rtx": "for an RTX card of a desktop `pip install 'foldcam[rtx]'`",
}


@dataclass(frozen=True)
class Flavour:
    """One installed TensorRT."""

    name: FlavourName
    version: str
    module: Any

    @property
    def title(self) -> str:
        """Name and version to read, such as `TensorRT-RTX 1.7.1.116`."""
        return title_of(self.name, self.version)

    @property
    def release(self) -> tuple[int, ...]:
        """The version's leading numbers, such as `(10, 3, 0)`."""
        return release_of(self.version)

    @property
    def rtx(self) -> bool:
        """Whether it is TensorRT-RTX."""
        return self.name == "tensorrt_rtx"

    @property
    def wanted(self) -> Wanted:
        """The value of `--flavour` that asks for it."""
        return wanted_for(self.name)

    @property
    def strongly_typed(self) -> bool:
        """Whether networks take their types from the file, completely."""
        return self.rtx or self.release >= _TYPED_SINCE

    def member(self, enum: str, name: str) -> Any | None:
        """A member of one of its enumerations; None where this version has none.

        Flags are asked for by name because their bits moved between versions.
        """
        return getattr(getattr(self.module, enum, None), name, None)


def find_flavour(wanted: Wanted, load: Callable[[str], Any] = import_module) -> Flavour:
    """The TensorRT to use."""
    broken: list[str] = []
    for name in _NAMES[wanted]:
        try:
            return _loaded(name, load)
        except ModuleNotFoundError as error:
            # Another name: the module is there and lacks a part of its own.
            if (error.name or "").partition(".")[0] != name:
                broken.append(_broken(name, error))
        except Exception as error:  # a library that does not fit this machine raises anything
            broken.append(_broken(name, error))
    if broken:
        raise FoldcamError("; ".join(broken) + ": see `runtime doctor`.")
    titles = " or ".join(_TITLES[name] for name in _NAMES[wanted])
    ways = "; ".join(_INSTALL[name] for name in _NAMES[wanted])
    raise FoldcamError(f"{titles} is not installed: {ways}.")


def installed_versions(load: Callable[[str], Any] = import_module) -> dict[FlavourName, str]:
    """Every TensorRT that imports here, with its version."""
    found: dict[FlavourName, str] = {}
    for name in FLAVOUR_NAMES:
        with suppress(FoldcamError):
            found[name] = find_flavour(wanted_for(name), load).version
    return found


def wanted_for(name: FlavourName) -> Wanted:
    """The value of `--flavour` that asks for a module."""
    return "rtx" if name == "tensorrt_rtx" else "tensorrt"


def title_of(name: FlavourName, version: str) -> str:
    """Name and version to read."""
    return f"{_TITLES[name]} {version}".rstrip()


def release_of(version: str) -> tuple[int, ...]:
    """The leading numbers of a version; what follows them, such as `b6`, is left out."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def _loaded(name: FlavourName, load: Callable[[str], Any]) -> Flavour:
    module = load(name)
    version = str(getattr(module, "__version__", ""))
    if not release_of(version) or not hasattr(module, "Builder"):
        # Some wheels of the public index are empty shells that fetch the library from elsewhere.
        raise ImportError("the module has no Builder: it is a shell without the library")
    return Flavour(name, version, module)


def _broken(name: str, error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return f"{name} is installed but cannot be imported ({shorten(printable(lines[0]), 200)})"
