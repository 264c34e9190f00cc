"""A recording stand-in for the builder's side of `tensorrt`, as each version has it.

It knows what differs between the versions: which members exist, which bits flags have, and
that failures come back as None while the reason goes to the logger.
"""

from __future__ import annotations

from enum import IntEnum
from types import SimpleNamespace
from typing import Any

PLAN = bytes(range(256)) * 2


def tensor(name: str, dtype: Any, shape: tuple[int, ...]) -> SimpleNamespace:
    return SimpleNamespace(name=name, dtype=dtype, shape=shape)


class Layer:
    """A layer that remembers what it was pinned to."""

    def __init__(self, name: str, kind: Any, inputs: list[Any], outputs: list[Any]) -> None:
        self.name, self.type = name, kind
        self._inputs, self._outputs = inputs, outputs
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)
        self.precision: Any = None
        self.output_types: dict[int, Any] = {}

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def get_output(self, index: int) -> Any:
        return self._outputs[index]

    def set_output_type(self, index: int, dtype: Any) -> None:
        self.output_types[index] = dtype


def make(version: str, **settings: Any) -> Any:
    """A module.

    Args:
        version: such as `8.6.2`.
        settings: `dla_cores`, `fast` (whether FP16 and INT8 are fast), `starts`, `errors`
            (of the parser), `failure` (what the builder logs before it returns None),
            `half` (whether the network is float16 between two casts), `quantized`,
            `on_dla` (names of layers that the DLA runs), `during_build` (called meanwhile),
            `accepts_cache`.
    """
    module: Any = SimpleNamespace(__version__=version, __name__="tensorrt", calls=[])
    release = tuple(int(part) for part in version.split(".")[:2])
    _enumerations(module, release)
    calls: list[Any] = module.calls

    class ILogger:
        def __init__(self) -> None:
            self.handle = "a native object"

    class Config:
        def __init__(self) -> None:
            self.flags: set[str] = set()
            self.progress_monitor: Any = None
            self.default_device_type: Any = None
            self.DLA_core: int | None = None
            self.limits: dict[Any, int] = {}
            self.profiles: list[Any] = []
            self.cache: Any = None
            module.config = self

        def set_flag(self, flag: Any) -> None:
            self.flags.add(flag.name)

        def set_memory_pool_limit(self, pool: Any, limit: int) -> None:
            self.limits[pool] = limit

        def add_optimization_profile(self, profile: Any) -> int:
            self.profiles.append(profile.shapes)
            return len(self.profiles) - 1

        def create_timing_cache(self, content: bytes) -> Any:
            calls.append(("create_timing_cache", content))
            return SimpleNamespace(content=content, serialize=lambda: content + b"+measured")

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            if cache.content and not settings.get("accepts_cache", True):
                return False
            self.cache = cache
            return True

        def get_timing_cache(self) -> Any:
            return self.cache

        def can_run_on_DLA(self, layer: Any) -> bool:  # noqa: N802
            return layer.name in settings.get("on_dla", ())

    class Profile:
        def __init__(self) -> None:
            self.shapes: dict[str, Any] = {}

        def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
            self.shapes[name] = (low, best, high)

    class Builder:
        def __init__(self, logger: Any) -> None:
            if not settings.get("starts", True):
                logger.log(1, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self.logger = logger
            self.num_DLA_cores = settings.get("dla_cores", 0)
            self.platform_has_fast_fp16 = self.platform_has_fast_int8 = settings.get("fast", True)

        def create_network(self, flags: int = 0) -> Any:
            calls.append(("create_network", flags))
            module.network = SimpleNamespace(num_layers=0, num_inputs=0, num_outputs=0)
            return module.network

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Any, config: Config) -> bytes | None:
            calls.append(("build", frozenset(config.flags)))
            settings.get("during_build", lambda config: None)(config)
            monitor = config.progress_monitor
            if monitor is not None:
                monitor.phase_start("Building engine", None, 2)
                if not monitor.step_complete("Building engine", 0):
                    self.logger.log(1, "Build canceled by user")
                    return None
                monitor.phase_finish("Building engine")
            if "failure" in settings:
                self.logger.log(1, settings["failure"])
                return None
            return PLAN

    class OnnxParser:
        def __init__(self, network: Any, logger: Any) -> None:
            self.network, self.errors = network, settings.get("errors", [])
            self.num_errors = len(self.errors)

        def parse(self, data: bytes) -> bool:
            calls.append(("parse", len(data)))
            if not self.errors:
                _fill(self.network, module, settings)
            return not self.errors

        def get_error(self, index: int) -> Any:
            return self.errors[index]

    module.ILogger, module.Builder, module.OnnxParser = ILogger, Builder, OnnxParser
    if release >= (10, 0):

        class IProgressMonitor:
            def __init__(self) -> None:
                self.handle = "a native object"

        module.IProgressMonitor = IProgressMonitor
    return module


def _enumerations(module: Any, release: tuple[int, ...]) -> None:
    creation = {"EXPLICIT_BATCH": 0}
    flags = ["FP16", "INT8", "GPU_FALLBACK", "PREFER_PRECISION_CONSTRAINTS", "TF32"]
    if release >= (10, 0):
        creation["STRONGLY_TYPED"] = 1
    if release >= (11, 0):
        creation, flags = {"STRONGLY_TYPED": 0}, ["GPU_FALLBACK", "TF32"]
    module.NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", creation)
    module.BuilderFlag = IntEnum("BuilderFlag", {name: at for at, name in enumerate(flags)})
    types = ["FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8"]
    module.DataType = IntEnum("DataType", {name: at for at, name in enumerate(types)})
    layers = ["CONVOLUTION", "CAST", "CONSTANT", "REDUCE", "QUANTIZE", "DEQUANTIZE", "TOPK"]
    layers.append("ACTIVATION")
    module.LayerType = IntEnum("LayerType", {name: at for at, name in enumerate(layers)})
    module.MemoryPoolType = IntEnum("MemoryPoolType", {"WORKSPACE": 0})
    module.DeviceType = IntEnum("DeviceType", {"GPU": 0, "DLA": 1})


def _fill(network: Any, module: Any, settings: dict[str, Any]) -> None:
    """image -> [cast] -> conv -> conv -> [cast] -> reduce, with the tensors of the tiny model.

    As weakly typed versions do, the second convolution reports float32 whatever it is given.
    """
    types, kinds = module.DataType, module.LayerType
    image = tensor("image", types.FLOAT, (-1, 3, 8, 8))
    start, middle = image, types.FLOAT
    layers = []
    if settings.get("half"):
        start = tensor("half", types.HALF, (-1, 3, 8, 8))
        layers.append(Layer("to half", kinds.CAST, [image], [start]))
        middle = types.HALF
    if settings.get("quantized"):
        small = tensor("small", types.INT8, (-1, 3, 8, 8))
        layers.append(Layer("quantize", kinds.QUANTIZE, [start], [small]))
        start = tensor("back", types.FLOAT, (-1, 3, 8, 8))
        layers.append(Layer("dequantize", kinds.DEQUANTIZE, [small], [start]))
    first = tensor("first", middle, (-1, 3, 2, 2))
    second = tensor("second", types.FLOAT, (-1, 3, 2, 2))
    layers.append(Layer("conv1", kinds.CONVOLUTION, [start], [first]))
    layers.append(Layer("conv2", kinds.CONVOLUTION, [first, None], [second]))
    if settings.get("half"):
        single = tensor("single", types.FLOAT, (-1, 3, 2, 2))
        layers.append(Layer("to single", kinds.CAST, [second], [single]))
        second = single
    embedding = tensor("embedding", types.FLOAT, (-1, 3))
    layers.append(Layer("mean", kinds.REDUCE, [second], [embedding]))
    neighbor = tensor("neighbor", types.INT32, (-1, 2))
    similarity = tensor("similarity", types.FLOAT, (-1, 2))
    layers.append(Layer("topk", kinds.TOPK, [embedding], [similarity, neighbor]))
    heatmap = tensor("heatmap", types.FLOAT, (-1, 1, 2, 2))
    outputs = [embedding, heatmap, neighbor, similarity]
    network.get_layer, network.num_layers = layers.__getitem__, len(layers)
    network.get_input, network.num_inputs = [image].__getitem__, 1
    network.get_output, network.num_outputs = outputs.__getitem__, len(outputs)
    network.layers = {layer.name: layer for layer in layers}
