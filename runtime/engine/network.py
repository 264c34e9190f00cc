"""From a folded ONNX file to a TensorRT network, and from a network to its plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foldcam.runtime.contract.onnx_file import TensorInfo
from foldcam.runtime.engine.device import Gpu
from foldcam.runtime.engine.flavours import Flavour
from foldcam.runtime.engine.log import OwnedLogger
from foldcam.runtime.engine.options import MIB, BuildOptions
from foldcam.runtime.engine.precision import Types
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable, shorten

_DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "UINT8": "uint8",
    "INT32": "int32", "INT64": "int64", "BOOL": "bool",
}  # fmt: skip
_SHOWN_ERRORS = 3
# Of the free memory: on a Jetson the builder itself and the system live in it as well.
_SHARE_INTEGRATED, _SHARE_DISCRETE = 0.5, 0.8
# What TensorRT-RTX builds for by itself ("CPU-Only AOT and TensorRT-RTX Engines" of its docs).
_RTX_FROM = 8.0


@dataclass(frozen=True)
class Parsed:
    """A network and what must live as long as it."""

    builder: Any
    network: Any
    parser: Any

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The network's inputs; the batch size is `N`."""
        network = self.network
        return tuple(_tensor(network.get_input(at)) for at in range(network.num_inputs))

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The network's outputs; the batch size is `N`."""
        network = self.network
        return tuple(_tensor(network.get_output(at)) for at in range(network.num_outputs))


def parse_network(data: bytes, name: str, flavour: Flavour, logger: OwnedLogger) -> Parsed:
    """Parse the bytes of an ONNX file."""
    module, mark = flavour.module, logger.messages.mark()
    try:
        builder = module.Builder(logger.handle)
    except Exception as error:  # the bindings raise TypeError where the factory gives nothing
        raise FoldcamError(
            f"{flavour.title} does not start on this machine ({logger.messages.reason(mark)}): it "
            "needs an NVIDIA GPU and its driver; see `runtime doctor`."
        ) from error
    network = builder.create_network(_creation_flags(flavour))
    parser = module.OnnxParser(network, logger.handle)
    if not parser.parse(data):
        reasons = [_parser_error(parser.get_error(at)) for at in range(parser.num_errors)]
        reasons = list(dict.fromkeys(reasons)) or [logger.messages.reason(mark)]
        more = f"; and {len(reasons) - _SHOWN_ERRORS} more" if len(reasons) > _SHOWN_ERRORS else ""
        raise FoldcamError(
            f"{name} is refused by the parser of {flavour.title}: "
            f"{'; '.join(reasons[:_SHOWN_ERRORS])}{more}. What would avoid it: foldcam check {name}"
        )
    return Parsed(builder, network, parser)


def configure(
    parsed: Parsed,
    options: BuildOptions,
    types: Types,
    flavour: Flavour,
    gpu: Gpu | None,
    lengths: Mapping[str, tuple[int, int, int]],
) -> tuple[Any, tuple[str, ...]]:
    """A builder configuration.

    Args:
        lengths: of the arrays of a bank that is an input, see `bank_lengths`.

    Returns:
        The `IBuilderConfig`, and the layers that the DLA was asked for and cannot run.
    """
    config = parsed.builder.create_builder_config()
    _add_profiles(parsed, config, options, flavour, lengths)
    limit = options.workspace or _workspace(gpu)
    if limit is not None:
        config.set_memory_pool_limit(flavour.module.MemoryPoolType.WORKSPACE, limit)
    if options.compute_capabilities:
        _set_capabilities(config, options.compute_capabilities, flavour)
    fallback: tuple[str, ...] = ()
    if options.dla_core is not None:
        fallback = _use_dla(parsed, config, options, types, flavour)
    return config, fallback


def compute_capabilities(
    options: BuildOptions, flavour: Flavour, gpu: Gpu | None
) -> tuple[tuple[str, ...], bool]:
    """What a plan with these options runs on, and whether later GPUs count as well.

    TensorRT builds for the GPU that is there. TensorRT-RTX builds for those that are
    named; without a name for all from 8.0 on.
    """
    if options.compute_capabilities:
        return options.compute_capabilities, False
    if flavour.rtx:
        known = rtx_capabilities(flavour)
        return tuple(text for text in known if float(text) >= _RTX_FROM), True
    return (gpu.compute_capability,) if gpu is not None else (), False


def rtx_capabilities(flavour: Flavour) -> list[str]:
    """The compute capabilities that a TensorRT-RTX can build for: SM75 is `7.5`."""
    enum = getattr(flavour.module, "ComputeCapability", None)
    digits = [name[2:] for name in dir(enum) if name.startswith("SM") and name[2:].isdecimal()]
    return [f"{each[:-1]}.{each[-1]}" for each in sorted(digits, key=int)]


def _creation_flags(flavour: Flavour) -> int:
    flags = 0
    if flavour.strongly_typed:
        typed = flavour.member("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")
        flags |= 1 << int(typed) if typed is not None else 0
    if flavour.release < (10,) and not flavour.rtx:
        # Later versions know no other networks, and warn of the flag until 11 took it away.
        batch = flavour.member("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH")
        flags |= 1 << int(batch) if batch is not None else 0
    return flags


def _add_profiles(
    parsed: Parsed,
    config: Any,
    options: BuildOptions,
    flavour: Flavour,
    lengths: Mapping[str, tuple[int, int, int]],
) -> None:
    inputs = [parsed.network.get_input(at) for at in range(parsed.network.num_inputs)]
    for each in options.profiles:
        profile = parsed.builder.create_optimization_profile()
        for tensor in inputs:
            first = lengths.get(str(tensor.name), (each.low, each.best, each.high))
            rest = list(tensor.shape)[1:]
            profile.set_shape(tensor.name, *([length, *rest] for length in first))
        if config.add_optimization_profile(profile) < 0:
            raise FoldcamError(
                f"{flavour.title} refuses the batch sizes {each.low} to {each.high}: "
                "give others with --batch."
            )


def _workspace(gpu: Gpu | None) -> int | None:
    if gpu is None or gpu.free_bytes is None:
        return None
    share = _SHARE_INTEGRATED if gpu.integrated else _SHARE_DISCRETE
    return max(64 * MIB, int(gpu.free_bytes * share))


def _set_capabilities(config: Any, wanted: Sequence[str], flavour: Flavour) -> None:
    if not flavour.rtx:
        raise FoldcamError(
            f"{flavour.title} builds for the GPU of this machine and for no other: leave out "
            "--compute-capability, or use --flavour rtx."
        )
    config.num_compute_capabilities = len(wanted)
    for index, text in enumerate(wanted):
        member = flavour.member("ComputeCapability", f"SM{text.replace('.', '')}")
        if member is None or not config.set_compute_capability(member, index):
            raise FoldcamError(
                f"{flavour.title} does not build for compute capability {text}: it knows "
                f"{', '.join(rtx_capabilities(flavour))}."
            )


def _use_dla(
    parsed: Parsed, config: Any, options: BuildOptions, types: Types, flavour: Flavour
) -> tuple[str, ...]:
    core, cores = options.dla_core, int(getattr(parsed.builder, "num_DLA_cores", 0))
    # Without cores the builder takes the request silently and builds for the GPU.
    if cores == 0:
        raise FoldcamError(
            f"{flavour.title} finds no DLA on this device (Orin Nano, Thor and desktops have "
            "none, and TensorRT 10.8 to 10.16 knows none): leave out --dla."
        )
    assert core is not None
    if core >= cores:
        raise FoldcamError(f"--dla is {core} and this device has the cores 0 to {cores - 1}.")
    if not (types.fp16 or types.int8):
        raise FoldcamError(
            "The DLA computes in fp16 and int8 and the model is fp32: export it with "
            "--precision fp16, or leave out --dla."
        )
    if len(options.profiles) > 1 or not options.profiles[0].fixed:
        raise FoldcamError(
            "The DLA runs one fixed batch size: give --batch 1, or --min-batch and --max-batch "
            "with one value."
        )
    config.default_device_type = flavour.module.DeviceType.DLA
    config.DLA_core = core
    fallback_flag = flavour.member("BuilderFlag", "GPU_FALLBACK")
    if fallback_flag is not None:
        config.set_flag(fallback_flag)
    layers = (parsed.network.get_layer(at) for at in range(parsed.network.num_layers))
    return tuple(printable(str(each.name)) for each in layers if not config.can_run_on_DLA(each))


def _parser_error(error: Any) -> str:
    """A reason with the node's name, where the version tells it."""
    text = printable(shorten(" ".join(str(error.desc()).split()), 250)).rstrip(".")
    name, operator = (
        str(getattr(error, attribute)()) if hasattr(error, attribute) else ""
        for attribute in ("node_name", "node_operator")
    )
    if not name or name in text:
        return text
    return f"node {printable(shorten(name, 120))!r} ({printable(operator)}): {text}"


def _tensor(tensor: Any) -> TensorInfo:
    name = getattr(tensor.dtype, "name", str(tensor.dtype)).upper()
    sizes = [int(size) for size in tensor.shape]
    shape = tuple(size if size >= 0 else "N" if at == 0 else "?" for at, size in enumerate(sizes))
    return TensorInfo(str(tensor.name), _DTYPES.get(name, name.lower()), shape)
