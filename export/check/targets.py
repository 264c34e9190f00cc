"""The TensorRT versions that a model may meet, and what each promises to read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from foldcam.runtime.errors import FoldcamError

Version = tuple[int, int]
Flavour = Literal["tensorrt", "tensorrt_rtx"]
ALL = "all"

# (from this TensorRT on, newest opset), after the table "Supported ONNX Operators" of
# https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md in each release, and
# https://docs.nvidia.com/deeplearning/tensorrt/latest/reference/onnx-opset-guide.html.
# 10.11 to 10.14 link ONNX 1.18, whose newest is 23 (its docs/Changelog.md).
_NEWEST_OPSET: tuple[tuple[Version, int], ...] = (
    ((8, 5), 17), ((10, 0), 20), ((10, 9), 22), ((10, 11), 23), ((10, 15), 24), ((11, 0), 25),
)  # fmt: skip
_OLDEST: Version = (8, 5)


@dataclass(frozen=True)
class Target:
    """One TensorRT on one kind of machine.

    Attributes:
        name: as on the command line.
        version: of TensorRT; of RTX that of the standard TensorRT whose parser it shares.
        flavour: `tensorrt`, or `tensorrt_rtx`.
        dla: boards of this target that have DLA cores which this TensorRT can use; empty
            for none.
    """

    name: str
    version: Version
    flavour: Flavour = "tensorrt"
    dla: str = ""

    @property
    def newest_opset(self) -> int:
        """The newest opset that its parser promises to read."""
        return max(opset for since, opset in _NEWEST_OPSET if self.version >= since)

    @property
    def oldest_opset(self) -> int:
        """The oldest opset that its parser promises to read."""
        return 9 if self.version >= (10, 0) else 7

    @property
    def title(self) -> str:
        """For a sentence, such as `TensorRT 10.3`."""
        if self.flavour == "tensorrt_rtx":
            return "TensorRT-RTX"
        return f"TensorRT {self.version[0]}.{self.version[1]}"


_ORIN = "Orin NX and AGX Orin"
TARGETS = (
    Target("jetpack-6.0", (8, 6), dla=_ORIN),
    Target("jetpack-6.1", (10, 3), dla=_ORIN),
    Target("jetpack-6.2", (10, 3), dla=_ORIN),
    Target("jetpack-7.0", (10, 13)),
    Target("jetpack-7.1", (10, 13)),
    Target("jetpack-7.2", (10, 16)),
    # An optional package from JetPack 7.2.2 on.
    Target("jetpack-7.2-tensorrt-11", (11, 4), dla="AGX Orin"),
    Target("desktop-10.3", (10, 3)),
    Target("desktop-10.9", (10, 9)),
    Target("desktop-10.13", (10, 13)),
    Target("desktop-10.16", (10, 16)),
    Target("desktop-11", (11, 0)),
    Target("rtx", (11, 4), "tensorrt_rtx"),
)


def find_targets(names: list[str]) -> tuple[Target, ...]:
    """The targets of these names, each once, in the table's order.

    Args:
        names: of the table, `desktop-MAJOR.MINOR` for any other TensorRT from 8.5 on, or
            `all` for the whole table.

    Raises:
        FoldcamError: a name is unknown; the message lists them.
    """
    if ALL in names:
        return TARGETS
    known = {target.name: target for target in TARGETS}
    found = {name: known.get(name) or _desktop(name) for name in names}
    order = list(known)
    return tuple(
        sorted(
            found.values(),
            key=lambda target: order.index(target.name) if target.name in known else len(order),
        )
    )


def _desktop(name: str) -> Target:
    match = re.fullmatch(r"desktop-(\d{1,2})(?:\.(\d{1,2}))?", name)
    version = (int(match[1]), int(match[2] or 0)) if match else (0, 0)
    if version < _OLDEST:
        raise FoldcamError(
            f"The target {name!r} is unknown: choose among "
            f"{', '.join(target.name for target in TARGETS)}, desktop-MAJOR.MINOR from "
            f"desktop-{_OLDEST[0]}.{_OLDEST[1]} on, or {ALL}."
        )
    return Target(name, version)
