"""TensorRT 10.3 as far as foldcam uses it; an engine is an ONNX file that ONNX Runtime runs."""

# ruff: noqa: N815 (the names are those of CUDA)

import ctypes
import json
import os
import sys
from enum import IntEnum
from types import SimpleNamespace

import numpy as np
from cuda.bindings import runtime as cuda

__version__ = "10.3.0"
_HEAD = b"an engine of the pretended TensorRT\n"
_TYPES = {"tensor(float)": "FLOAT", "tensor(uint8)": "UINT8", "tensor(int32)": "INT32"}
_NUMPY = {"FLOAT": np.float32, "UINT8": np.uint8, "INT32": np.int32}

NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
BuilderFlag = IntEnum("BuilderFlag", ["FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS"])
DataType = IntEnum("DataType", ["FLOAT", "HALF", "INT8", "INT32", "UINT8"])
LayerType = IntEnum("LayerType", ["CONVOLUTION", "QUANTIZE", "DEQUANTIZE"])
MemoryPoolType = IntEnum("MemoryPoolType", ["WORKSPACE"])


def _onnxruntime():
    """ONNX Runtime, which nobody else can import where the environment has none."""
    site = os.environ.get("PRETENDED_SITE")
    if not site:
        import onnxruntime

        return onnxruntime
    before = set(sys.modules)
    sys.path.append(site)
    try:
        import onnxruntime
    finally:
        sys.path.remove(site)
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("onnxruntime", "onnx"):
                del sys.modules[name]
    return onnxruntime


def _session(model):
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class ILogger:
    def __init__(self):
        pass


class IErrorRecorder:
    def __init__(self):
        pass


def _tensor(value):
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return SimpleNamespace(name=value.name, dtype=DataType[_TYPES[value.type]], shape=shape)


class _Network:
    num_layers = 0

    def fill(self, model):
        session = _session(model)
        self.model = model
        inputs = [_tensor(value) for value in session.get_inputs()]
        outputs = [_tensor(value) for value in session.get_outputs()]
        self.num_inputs, self.get_input = len(inputs), inputs.__getitem__
        self.num_outputs, self.get_output = len(outputs), outputs.__getitem__


class OnnxParser:
    num_errors = 0

    def __init__(self, network, logger):
        self._network = network

    def parse(self, data):
        self._network.fill(data)
        return True


class _Profile:
    def set_shape(self, name, low, best, high):
        self.sizes = low[0], best[0], high[0]


class _Config:
    def __init__(self):
        self.profiles = []

    def set_flag(self, flag):
        pass

    def set_memory_pool_limit(self, pool, limit):
        pass

    def add_optimization_profile(self, profile):
        self.profiles.append(profile.sizes)
        return len(self.profiles) - 1

    def create_timing_cache(self, content):
        return SimpleNamespace(serialize=lambda: b"measured")

    def set_timing_cache(self, cache, ignore_mismatch):
        return True

    def get_timing_cache(self):
        return None


class Builder:
    num_DLA_cores = 0

    def __init__(self, logger):
        pass

    def create_network(self, flags=0):
        return _Network()

    def create_builder_config(self):
        return _Config()

    def create_optimization_profile(self):
        return _Profile()

    def build_serialized_network(self, network, config):
        return _HEAD + json.dumps(config.profiles).encode() + b"\n" + network.model


class Runtime:
    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, plan):
        head, profiles, model = bytes(plan).split(b"\n", 2)
        return _Engine(json.loads(profiles), model) if head + b"\n" == _HEAD else None


class _Engine:
    def __init__(self, profiles, model):
        self.profiles, self.session = profiles, _session(model)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        self.inputs = {value.name: _tensor(value) for value in inputs}
        self.outputs = {value.name: _tensor(value) for value in outputs}
        self.tensors = {**self.inputs, **self.outputs}
        self.num_io_tensors, self.num_optimization_profiles = len(self.tensors), len(profiles)

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_shape(self, name):
        return self.tensors[name].shape

    def get_tensor_dtype(self, name):
        return self.tensors[name].dtype

    def get_tensor_mode(self, name):
        return SimpleNamespace(name="INPUT" if name in self.inputs else "OUTPUT")

    def get_tensor_profile_shape(self, name, index):
        rest = self.tensors[name].shape[1:]
        return [(size, *rest) for size in self.profiles[index]]

    def create_execution_context(self):
        return _Context(self)


class _Context:
    active_optimization_profile = 0

    def __init__(self, engine):
        self._engine = engine
        self._addresses = {}
        self._shapes = {}

    def set_tensor_address(self, name, address):
        self._addresses[name] = address
        return True

    def set_optimization_profile_async(self, index, stream):
        self.active_optimization_profile = index
        return True

    def set_input_shape(self, name, shape):
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name):
        batch = next(iter(self._shapes.values()))[0]
        return tuple(batch if size < 0 else size for size in self._engine.outputs[name].shape)

    def execute_async_v3(self, stream):
        cuda.put(self._compute)
        return True

    def _compute(self):
        engine = self._engine
        given = {
            name: self._array(name, self._shapes[name], tensor.dtype)
            for name, tensor in engine.inputs.items()
        }
        names = list(engine.outputs)
        for name, value in zip(names, engine.session.run(names, given), strict=True):
            if name == "embedding" and os.environ.get("PRETENDED_WRONG"):
                # A layer that answers wrongly, beside the direction of the right answer.
                value = value + np.linspace(-1, 1, value.shape[1], dtype=value.dtype)
            ctypes.memmove(self._addresses[name], np.ascontiguousarray(value).ctypes.data,
                           value.nbytes)  # fmt: skip
        return True

    def _array(self, name, shape, dtype):
        kind = np.dtype(_NUMPY[dtype.name])
        size = int(np.prod(shape)) * kind.itemsize
        held = (ctypes.c_uint8 * size).from_address(self._addresses[name])
        return np.frombuffer(held, kind).reshape(shape)
