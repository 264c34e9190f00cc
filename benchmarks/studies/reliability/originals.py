"""Right inputs of every kind, small enough to be made wrong ten thousand times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from foldcam.runtime.contract.onnx_file import read_header
from foldcam.runtime.contract.schema import METADATA_KEY
from foldcam.runtime.system.errors import FoldcamError

NETWORK = "foldcam.benchmarks.studies.architectures.small:NeckNetwork"
SIZE = "48"

CONFIG = """\
[model]
path = "model.onnx"
threads = 2
[[source]]
uri = "rtsp://user:password@camera/stream?token=1"
every = 2
crop = [0, 0, 640, 480]
[[source]]
camera = 1
rotate = 90
[flow]
keep = "newest"
queue = 8
stall_seconds = 5.0
[regions]
boxes = [[0, 0, 64, 64], [64, 0, 64, 64]]
[style]
opacity = 0.5
mark = "contour"
[output]
save = "out/"
jsonl = "out.jsonl"
embedding = false
events = "events/"
sinks = ["mine:make"]
[recording]
rotate_minutes = 60
keep_gb = 10.5
[[event]]
name = "unknown"
similarity_below = 0.4
not_label = ["snowy owl", "cat"]
for_seconds = 2.0
[[event]]
name = "door"
heat_in = [0, 0, 320, 240]
heat_above = 0.3
hysteresis = 0.05
[serve]
port = 8080
[log]
format = "json"
"""
RULES = (
    "name=unknown,similarity_below=0.4,for_seconds=2,cooldown_seconds=90,hysteresis=0.05",
    'not_label=owl,"snowy \\"owl\\"",similarity_above=0.8',
    "name=door,heat_in=0,0,320,240,heat_above=0.3,estimate_below=-1e3",
)
ADDRESSES = (
    "mqtt://user:p%40ss@broker:1883/cameras/door?client_id=me",
    "rtsp://user:se@cret@[::1]:554/live?token=42&stream=1#x",
    "mqtts://host/topic?ca=%2Ftmp%2Fx.pem",
)
BOXES = (
    '{"frame": 0, "boxes": [[0, 0, 64, 48], [10, 10, 20.5, 20]]}\n'
    '{"frame": 1, "boxes": []}\n{"name": "owls/3.jpg", "stream": 1, "boxes": [[1, 2, 3, 4]]}\n'
)


def images() -> dict[str, bytes]:
    """A picture in every format that foldcam reads, by suffix."""
    pixels = _picture(48, 36)
    kinds: dict[str, npt.NDArray[np.integer[Any]]] = {
        ".jpg": pixels, ".png": pixels, ".webp": pixels, ".bmp": pixels, ".tif": pixels,
        ".grey.png": pixels[..., 0], ".deep.png": pixels.astype(np.uint16) * 257,
        ".alpha.png": np.dstack([pixels, pixels[..., :1]]), ".deep.tif": pixels.astype(np.uint16),
    }  # fmt: skip
    return {name: cv2.imencode(Path(f"x{name}").suffix, pixels)[1].tobytes()
            for name, pixels in kinds.items()}  # fmt: skip


def videos(folder: Path) -> dict[str, bytes]:
    """A film of twelve frames in every container that OpenCV writes here, by suffix."""
    found: dict[str, bytes] = {}
    for suffix, codec in ((".mp4", "mp4v"), (".avi", "MJPG"), (".mkv", "mp4v"), (".webm", "VP09")):
        path = folder / f"original{suffix}"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 20.0, (64, 48))
        for index in range(12):
            writer.write(np.roll(_picture(64, 48), index, axis=1))
        writer.release()
        if path.exists() and path.stat().st_size:
            found[suffix] = path.read_bytes()
    return found


def dataset(folder: Path, images_each: int = 4) -> Path:
    """A folder of three labels with some pictures each."""
    for label, tint in (("blue", 2), ("green", 1), ("red", 0)):
        for number in range(images_each):
            pixels = _picture(64, 64, number) // 3
            pixels[..., 2 - tint] += 150
            path = folder / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), pixels)
    return folder


def folded_model(folder: Path, kind: str = "float32") -> Path:
    """A small network of this repository, exported as a user would; made once per folder.

    Args:
        kind: of the input, `float32` or `uint8`.
    """
    path = folder / f"folded-{kind}.onnx"
    if not path.exists():
        command = export_command(dataset(folder / "images"), path)
        done = subprocess.run(
            [*command, "--input", kind], check=False, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise FoldcamError(f"The model for the check cannot be made: {done.stderr.strip()}")
    return path


def export_command(images_: Path, out: Path) -> list[str]:
    """`foldcam export` of a small network."""
    return [
        sys.executable, "-m", "foldcam", "export", NETWORK,
        "--images", str(images_), "--size", SIZE, "--out", str(out),
    ]  # fmt: skip


def metadata_of(model: Path) -> str:
    """The document in a folded model."""
    text = read_header(model).metadata[METADATA_KEY]
    json.loads(text)
    return text


def _picture(width: int, height: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Smooth shapes with a little noise, `uint8 [height, width, 3]`."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / (3 + n + seed)) * np.cos(columns / (4 + n)) for n in range(3)]
    smooth = 127 + 100 * np.dstack(waves)
    noise = np.random.default_rng(seed).normal(0, 8, smooth.shape)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)
