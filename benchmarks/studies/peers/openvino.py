"""openvino_xai in a virtual environment of its own: it pins versions that nothing else can use."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx

from foldcam.benchmarks.evaluation.graphs import save_graph
from foldcam.benchmarks.studies.peers.peer import Asked, Floats, Peer
from foldcam.export.onnx_graphs.message import load_message
from foldcam.runtime.system.errors import FoldcamError

_WORKER = Path(__file__).with_name("openvino_worker.py")
_PACKAGES = ("openvino", "openvino-xai")
METHODS: dict[str, tuple[str, str]] = {
    "openvino_plain": ("plain", "the embedding network alone in OpenVINO"),
    "openvino_reciprocam": (
        "reciprocam",
        "openvino_xai's ReciproCAM in the graph; its maps asked by foldcam's direction",
    ),
    "openvino_activation_map": (
        "activation_map",
        "openvino_xai's ActivationMap in the graph; it asks nothing",
    ),
}
"""Name of the peer -> name in the worker, and title."""


def openvino_python(folder: Path) -> Path:
    """The interpreter of an environment with openvino_xai, which is made where there is none."""
    python = folder / "bin" / "python"
    if not python.exists():
        _call([sys.executable, "-m", "venv", str(folder)], f"make the environment {folder}")
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        _call([*pip, *_PACKAGES], f"install {' and '.join(_PACKAGES)} into {folder}")
    code = "import openvino_xai"
    _call([str(python), "-c", code], f"import openvino_xai from {folder}")
    return python


def _call(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise FoldcamError(f"Could not {what}: {reason[:300]}.")


def for_reciprocam(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network without what keeps ReciproCAM from cloning its head.

    torch exports a normalisation as a division by an Expand to the size of the input. The
    clone runs on another batch than the input has, and the division stretches by itself.
    """
    found = onnx.ModelProto()
    found.CopyFrom(model)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in found.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in [node for node in found.graph.node if node.op_type == "Expand"]:
        into = readers.get(node.output[0], [])
        if into and all(reader.op_type in ("Div", "Mul") for reader in into):
            for reader in into:
                names = [node.input[0] if n == node.output[0] else n for n in reader.input]
                del reader.input[:]
                reader.input.extend(names)
            found.graph.node.remove(node)
    return found


@dataclass(frozen=True)
class Answer:
    """What the worker says of one run."""

    heat: Floats  # `float32 [h, w]`, empty for the plain network
    # wall, processor: seconds
    wall: float
    processor: float
    # resident, peak: bytes of the worker's process
    resident: int
    peak: int


class Worker:
    """A process that runs openvino_xai's graphs.

    Args:
        python: as `openvino_python` returns it.
        plain: the embedding network; a copy for openvino_xai is written beside it.
    """

    def __init__(self, python: Path, plain: Path, methods: list[str]) -> None:
        self._log = plain.with_name("openvino.log")
        graph = plain.with_name("openvino.onnx")
        save_graph(for_reciprocam(load_message(plain)), graph)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(python), str(_WORKER), str(graph), ",".join(methods)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        hello = self._line()
        self.version = str(hello["openvino"])
        self.resident = int(hello["resident"])
        """Bytes before the first run."""

    def run(self, method: str, image: Floats, direction: Floats) -> Answer:
        """One run."""
        head = {"method": method, "shape": image.shape, "size": len(direction)}
        data = [np.ascontiguousarray(part, np.float32).tobytes() for part in (image, direction)]
        try:
            self._input.write(json.dumps(head).encode() + b"\n" + b"".join(data))
            self._input.flush()
        except BrokenPipeError:
            self._fail()
        answer = self._line()
        height, width = answer["shape"]
        raw = self._output.read(4 * height * width)
        heat = np.frombuffer(raw, np.float32).reshape(height, width)
        times = answer["wall"], answer["processor"], answer["resident"], answer["peak"]
        return Answer(heat, *times)

    def close(self) -> None:
        """End the process."""
        self._input.close()
        self._process.wait(timeout=30)

    @property
    def _input(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _output(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _line(self) -> dict[str, Any]:
        line = self._output.readline()
        if not line:
            self._fail()
        found: dict[str, Any] = json.loads(line)
        return found

    def _fail(self) -> None:
        self._process.wait(timeout=30)
        said = self._log.read_text("utf-8", "replace").strip().splitlines() or ["nothing"]
        raise FoldcamError(f"openvino_xai's process ended; the last that it said: {said[-1]}")


def openvino_peers(worker: Worker) -> list[Peer]:
    """The peers that a worker runs; it serves all of them and is closed by its owner."""

    def peer(name: str, method: str, title: str) -> Peer:
        last = [(0.0, 0.0)]

        def run(image: Floats, asked: Asked) -> Floats:
            answer = worker.run(method, image, asked.all_triplets)
            last[0] = answer.wall, answer.processor
            return answer.heat

        library = f"openvino {worker.version}"
        return Peer(name, title, library, run, remote_times=lambda: last[0])

    return [peer(name, *rest) for name, rest in METHODS.items()]
