"""A pretended TensorRT on the pretended GPU.

The pretended network returns values that are easy to compute by hand: the embedding is the mean of
each channel, the heatmap the red channel's quarters, the neighbors 0, 1, ..., the
similarities 1, 1/2, ...; of a bank that is an input, the rows that are nearest.
"""

# ruff: noqa: N802 (the names are those of TensorRT)

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from pretended_cuda import Machine

INPUTS = ("image", "bank_", "query")


class TensorRT:
    """What is used of `tensorrt`. A plan is JSON here; see `make_plan`.

    `fail` names what refuses: `runtime`, `deserialize`, `context`, `enqueue`, `capture`,
    `profile`, `shape`, `address`. `say` is what TensorRT then tells recorder or logger.
    """

    class IErrorRecorder:
        def __init__(self) -> None:
            pass

    def __init__(self, machine: Machine, logger: Any) -> None:
        self.machine = machine
        self.logger = logger
        self.fail: set[str] = set()
        self.say: list[str] = []
        self.runtimes: list[Any] = []
        self.most_contexts = 100
        self.capturable: list[bool] = []
        # Changes the outputs of a pass, by name: a layer that computes wrongly.
        self.errs: Callable[[dict[str, Any]], None] = lambda outputs: None

    def refuses(self, what: str, recorder: Any) -> bool:
        if what not in self.fail:
            return False
        for text in self.say:
            if recorder is None:
                self.logger.messages.texts.append(text)
            else:
                recorder.report_error(1, text)
        return True

    def Runtime(self, handle: Any) -> Any:
        assert handle is self.logger.handle
        return None if self.refuses("runtime", None) else Runtime(self)


class Runtime:
    def __init__(self, trt: TensorRT) -> None:
        self._trt = trt
        self.engine_host_code_allowed = True
        self.error_recorder: Any = None
        trt.machine.calls.append("runtime")

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        assert self.engine_host_code_allowed is False
        self._trt.machine.calls.append("deserialize")
        if self._trt.refuses("deserialize", self.error_recorder):
            return None
        return Engine(self._trt, self.error_recorder, json.loads(plan))

    def __del__(self) -> None:
        self._trt.machine.calls.append("del runtime")


class Engine:
    def __init__(self, trt: TensorRT, recorder: Any, plan: dict[str, Any]) -> None:
        self.trt, self.recorder, self.plan = trt, recorder, plan
        self.names = list(plan["tensors"])
        self.num_io_tensors = len(self.names)
        self.num_optimization_profiles = len(plan["profiles"])

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.plan["tensors"][name][1])

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self.plan["tensors"][name][0])

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name="INPUT" if name.startswith(INPUTS) else "OUTPUT")

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        rest = self.get_tensor_shape(name)[1:]
        return [(size, *rest) for size in self.plan["profiles"][index]]

    def create_execution_context(self) -> Any:
        trt = self.trt
        trt.machine.calls.append("context")
        full = trt.machine.contexts >= trt.most_contexts
        if full or trt.refuses("context", self.recorder):
            return None
        return Context(self)

    def __del__(self) -> None:
        self.trt.machine.calls.append("del engine")


class Context:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._trt = engine.trt
        self._machine = engine.trt.machine
        self._addresses: dict[str, int] = {}
        self._batch = 0
        self._rows: dict[str, int] = {}
        self._settled = False
        self.active_optimization_profile = 0
        self._machine.contexts += 1
        if self._trt.capturable:
            self.is_stream_capturable = lambda stream: self._trt.capturable.pop(0)

    def __del__(self) -> None:
        self._machine.contexts -= 1
        self._machine.calls.append("del context")

    def _no(self, what: str) -> bool:
        return self._trt.refuses(what, self._engine.recorder)

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address in self._machine.device
        self._addresses[name] = address
        return not self._no("address")

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self._machine.calls.append(f"profile {index}")
        self.active_optimization_profile = index
        self._batch = 0
        return not self._no("profile")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._machine.calls.append(f"shape {list(shape)}")
        if name != "image":
            self._rows[name] = shape[0]
            return True
        low, _, high = self._engine.plan["profiles"][self.active_optimization_profile]
        good = low <= shape[0] <= high and not self._no("shape")
        self._batch = shape[0] if good else 0
        self._settled = False
        return good

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        _, shape, *real = self._engine.plan["tensors"][name]
        return (self._batch, *(real[0] if real else shape[1:]))

    def execute_async_v3(self, stream: int) -> bool:
        self._machine.calls.append("enqueue")
        assert self._batch, "enqueued before a shape was set"
        assert set(self._addresses) == set(self._engine.names)
        assert stream in self._machine.streams, "the stream is gone, or the default one"
        if self._machine.capturing.get(stream) is not None:
            assert self._settled, "captured before one run at this shape"
            if self._no("capture"):
                return False
        self._settled = True
        if self._no("enqueue"):
            return False
        batch = self._batch
        self._machine.put(stream, lambda: self._compute(batch))
        return True

    def _compute(self, batch: int) -> None:
        self._machine.calls.append(f"computed {batch}")
        device, plan = self._machine.device, self._engine.plan["tensors"]
        kind = np.uint8 if plan["image"][0] == "UINT8" else np.float32
        shape = (batch, *plan["image"][1][1:])
        count = int(np.prod(shape))
        image = np.frombuffer(bytes(device[self._addresses["image"]]), kind, count).reshape(shape)
        if kind == np.uint8:
            image = image.transpose(0, 3, 1, 2) / np.float32(255)
        size = image.shape[-1] // 2
        quarters = image[:, 0].reshape(batch, 2, size, 2, size).mean((2, 4), dtype=np.float32)
        k = plan["neighbor"][1][1]
        outputs = {
            "embedding": image.mean((2, 3), dtype=np.float32),
            "heatmap": quarters[:, None],
            "neighbor": np.tile(np.arange(k, dtype=np.int32), (batch, 1)),
            "similarity": np.tile(1 / np.arange(1, k + 1, dtype=np.float32), (batch, 1)),
        }
        if "bank_embedding" in plan:
            outputs |= self._nearest(outputs["embedding"], k)
        self._trt.errs(outputs)
        for name, value in outputs.items():
            content = value.astype(value.dtype).tobytes()
            device[self._addresses[name]][: len(content)] = content

    def _nearest(self, embedding: Any, k: int) -> dict[str, Any]:
        """Rows of the bank that lies on the device; `query` turns their order around."""
        device = self._machine.device
        size = embedding.shape[1]
        count = self._rows["bank_embedding"] * size
        held = bytes(device[self._addresses["bank_embedding"]])
        bank = np.frombuffer(held, np.float32, count).reshape(-1, size)
        scores = embedding / np.linalg.norm(embedding, axis=1, keepdims=True) @ bank.T
        if "query" in self._engine.plan["tensors"]:
            assert self._rows["query"] == len(embedding)
            held = bytes(device[self._addresses["query"]])
            asked = np.frombuffer(held, np.float32, embedding.size).reshape(embedding.shape)
            scores = np.where(asked.any(axis=1, keepdims=True), -scores, scores)
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)
        similarity = np.take_along_axis(scores, rows, 1).astype(np.float32)
        return {"neighbor": rows, "similarity": similarity}


class Logged:
    """The logger's messages, as `runtime.engine.log.Messages`."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self) -> int:
        return len(self.texts)

    def errors(self, since: int = 0) -> list[str]:
        return self.texts[since:]


def batch(rows: int, dtype: Any = np.float32, seed: int = 0) -> Any:
    """Images of the pretended network, of whole numbers."""
    shape = (rows, 8, 8, 3) if dtype == np.uint8 else (rows, 3, 8, 8)
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def assert_right(outputs: Any, images: Any) -> None:
    """As the pretended network computes, by hand."""
    pixels = images.transpose(0, 3, 1, 2) / 255 if images.dtype == np.uint8 else images
    quarters = pixels[:, 0].reshape(-1, 2, 4, 2, 4).mean((2, 4))
    np.testing.assert_allclose(outputs["embedding"], pixels.mean((2, 3)), rtol=1e-6)
    np.testing.assert_allclose(outputs["heatmap"][:, 0], quarters, rtol=1e-6)
    assert outputs["neighbor"].tolist() == [[0, 1]] * len(images)
    assert outputs["similarity"].tolist() == [[1.0, 0.5]] * len(images)
    kinds = {name: array.dtype.name for name, array in outputs.items()}
    assert kinds == {
        "embedding": "float32", "heatmap": "float32", "neighbor": "int32", "similarity": "float32",
    }  # fmt: skip
