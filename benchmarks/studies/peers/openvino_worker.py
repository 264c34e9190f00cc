"""Runs openvino_xai's inserted graphs in an environment of their own; imports nothing of foldcam.

Called as `python openvino_worker.py PLAIN.onnx METHOD,METHOD...`. Each request on standard
input is a line of JSON `{"method", "shape", "size"}` and the bytes of a float32 image and of a
direction `[size]`; each answer on standard output a line of JSON `{"wall", "processor", "shape",
"resident", "peak"}` (seconds, bytes) and the bytes of a float32 heatmap.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # This folder: its modules would be found in place of the packages of those names.
    del sys.path[0]

import json
import os
import re
import time
from typing import Any

import numpy as np


def memory() -> tuple[int, int]:
    """Resident bytes now, and at their peak."""
    with open("/proc/self/status", encoding="ascii") as stream:  # noqa: PTH123
        text = stream.read()
    found = {name: int(value) for name, value in re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", text)}
    return 1024 * found.get("VmRSS", 0), 1024 * found.get("VmHWM", 0)


def graphs(path: str, names: list[str]) -> dict[str, Any]:
    """The compiled graphs, on one thread and in float32."""
    import openvino
    import openvino_xai
    from openvino_xai import Method, Task

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    methods = {"reciprocam": Method.RECIPROCAM, "activation_map": Method.ACTIVATIONMAP}
    compiled = {}
    for name in names:
        model = core.read_model(path)
        shape = model.input(0).partial_shape
        shape[0] = 1
        model.reshape(shape)
        if name in methods:
            model = openvino_xai.insert_xai(
                model, task=Task.CLASSIFICATION, explain_method=methods[name], embed_scaling=False
            )
        compiled[name] = core.compile_model(model, "CPU", settings).create_infer_request()
    return compiled


def heat_of(outputs: list[Any], direction: Any) -> Any:
    """A map per output is asked by the direction; a single map asks nothing."""
    if len(outputs) < 2:
        return np.zeros((0, 0), np.float32)
    maps = outputs[1]
    if maps.ndim == 4:
        maps = np.tensordot(direction, maps[0], 1)[None]
    return np.ascontiguousarray(np.maximum(maps[0], 0), np.float32)


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # The libraries print; nothing of that may come between the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    requests = graphs(sys.argv[1], sys.argv[2].split(","))
    import openvino

    hello = {"openvino": openvino.__version__, "resident": memory()[0]}
    answers.write(json.dumps(hello).encode() + b"\n")
    answers.flush()
    while line := sys.stdin.buffer.readline():
        asked = json.loads(line)
        count = int(np.prod(asked["shape"]))
        data = sys.stdin.buffer.read(4 * (count + asked["size"]))
        values = np.frombuffer(data, np.float32)
        image, direction = values[:count].reshape(asked["shape"]), values[count:]
        request = requests[asked["method"]]
        wall, processor = time.perf_counter(), time.process_time()
        found = request.infer([image])
        heat = heat_of([found[output] for output in found], direction)
        processor, wall = time.process_time() - processor, time.perf_counter() - wall
        resident, peak = memory()
        head = {"wall": wall, "processor": processor, "shape": heat.shape}
        answers.write(json.dumps({**head, "resident": resident, "peak": peak}).encode() + b"\n")
        answers.write(heat.tobytes())
        answers.flush()


if __name__ == "__main__":
    main()
