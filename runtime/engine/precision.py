"""Which precision a parsed network has, and how weakly typed versions are held to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from foldcam.runtime.engine.flavours import Flavour
from foldcam.runtime.engine.manifest import EnginePrecision
from foldcam.runtime.system.errors import FoldcamError

_QUANTIZED = ("QUANTIZE", "DEQUANTIZE")
# They move values and compute none, or have a type of their own that may not be set.
_UNSET = (
    "CONSTANT", "SHAPE", "CAST", "IDENTITY", "QUANTIZE", "DEQUANTIZE", "SHUFFLE", "GATHER",
    "SLICE", "CONCATENATION", "TOPK",
)  # fmt: skip
# They are joined with the layer before them.
_JOINED = ("ACTIVATION", "ELEMENTWISE", "SCALE", "UNARY")


@dataclass(frozen=True)
class Types:
    """Which reduced types a network computes in."""

    fp16: bool
    int8: bool

    @property
    def precision(self) -> EnginePrecision:
        """The least precise of them."""
        return "int8" if self.int8 else "fp16" if self.fp16 else "fp32"


def types_of(network: Any, flavour: Flavour, promised: object, where: str) -> Types:
    """The types of a parsed network.

    INT8 is where Q/DQ layers are, FP16 where a tensor has that type.

    Args:
        network: an `INetworkDefinition`.
        promised: `precision` of the model's metadata, None if they do not say.
    """
    kinds = _members(flavour, _QUANTIZED)
    int8 = any(layer.type in kinds for layer in _layers(network))
    fp16 = bool(_half_tensors(network, flavour))
    if promised == "fp16" and not fp16:
        if flavour.strongly_typed:
            raise FoldcamError(
                f"{where}: its metadata promise fp16 and its graph has no float16 tensor: it was "
                "changed after the export, so export it again with --precision fp16."
            )
        # Before strong typing the types of inner tensors are only decided by the builder.
        fp16 = True
    return Types(fp16, int8)


def hold_to(types: Types, network: Any, config: Any, builder: Any, flavour: Flavour) -> list[str]:
    """Let a weakly typed build use the file's types, and no lower one where the file has float32.

    Nothing is to be done where networks are strongly typed. Elsewhere the flag of a type
    allows it for every layer, so layers whose tensors are float32 in the file are pinned.

    Returns:
        What the user should know: types that this GPU computes slowly or not at all.
    """
    if flavour.strongly_typed:
        return []
    notes: list[str] = []
    for wanted, flag, fast in (
        (types.fp16, "FP16", "platform_has_fast_fp16"),
        (types.int8, "INT8", "platform_has_fast_int8"),
    ):
        if not wanted:
            continue
        member = flavour.member("BuilderFlag", flag)
        if member is None:
            raise FoldcamError(f"{flavour.title} has no {flag}: install a later one.")
        config.set_flag(member)
        if not getattr(builder, fast, True):
            notes.append(f"this GPU has no fast {flag}: parts of the engine run in a wider type")
    prefer = flavour.member("BuilderFlag", "PREFER_PRECISION_CONSTRAINTS")
    if types.fp16 and prefer is not None:
        config.set_flag(prefer)
        _pin_float32(network, flavour)
    return notes


def _pin_float32(network: Any, flavour: Flavour) -> None:
    single = flavour.member("DataType", "FLOAT")
    skipped = _members(flavour, _UNSET)
    halves = _half_tensors(network, flavour)
    quantized = _quantized_layers(network, flavour)
    for layer in _layers(network):
        if layer.name in quantized:
            continue
        outputs = list(_outputs(layer))
        tensors = [*outputs, *_inputs(layer)]
        if layer.type in skipped or any(tensor.name in halves for tensor in tensors):
            continue
        if outputs and all(tensor.dtype == single for tensor in tensors):
            layer.precision = single
            for index in range(len(outputs)):
                layer.set_output_type(index, single)


def _quantized_layers(network: Any, flavour: Flavour) -> set[str]:
    """Names of the layers that read rounded values, and of the cheap ones behind them.

    Their kernels take int8 and return it; pinned to float32 they would have to return that.
    """
    rounding = _members(flavour, ("DEQUANTIZE",))
    joined = _members(flavour, _JOINED)
    rounded: set[str] = set()
    made: set[str] = set()
    found: set[str] = set()
    for layer in _layers(network):
        names = {tensor.name for tensor in _inputs(layer)}
        outputs = {tensor.name for tensor in _outputs(layer)}
        if layer.type in rounding:
            rounded |= outputs
        elif names & rounded or (layer.type in joined and names & made):
            found.add(layer.name)
            made |= outputs
    return found


def _half_tensors(network: Any, flavour: Flavour) -> set[str]:
    """Names of the tensors that are float16 in the file."""
    half, single = (flavour.member("DataType", name) for name in ("HALF", "FLOAT"))
    casts = _members(flavour, ("CAST", "IDENTITY", "DEQUANTIZE", "CONSTANT"))
    found: set[str] = set()
    for layer in _layers(network):
        carried = layer.type not in casts and any(tensor.name in found for tensor in _inputs(layer))
        for tensor in _outputs(layer):
            if tensor.dtype == half or (carried and tensor.dtype == single):
                found.add(tensor.name)
    return found


def _members(flavour: Flavour, names: tuple[str, ...]) -> list[Any]:
    found = (flavour.member("LayerType", name) for name in names)
    return [member for member in found if member is not None]


def _layers(network: Any) -> Iterator[Any]:
    return (network.get_layer(index) for index in range(network.num_layers))


def _outputs(layer: Any) -> Iterator[Any]:
    return (layer.get_output(index) for index in range(layer.num_outputs))


def _inputs(layer: Any) -> Iterator[Any]:
    found = (layer.get_input(index) for index in range(layer.num_inputs))
    return (tensor for tensor in found if tensor is not None)
