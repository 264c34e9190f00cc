"""A run whose cameras are films, behind a live page: in a process that can be killed.

python -m foldcam.benchmarks.studies.reliability.film_server MODEL FILM... --port 8080

Each film is played again and again at `--fps`, as one live stream.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import time
from pathlib import Path, PurePath

import cv2
import numpy as np

from foldcam.benchmarks.commands.demo.photographs import Photographs
from foldcam.runtime.contract.gallery import Gallery, gallery_path
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.sources import Frame
from foldcam.runtime.sources.options import ServeOptions
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.monitor import Cause, Monitor, State
from foldcam.runtime.web import LivePage

WIDTH, HEIGHT = 640, 480
_SECONDS_EACH = 3.0


def write_film(path: Path, labels: list[str], fps: float = 12.0) -> Path:
    """A camera that wanders over scenes which the network has not seen, each for three seconds.

    Args:
        path: `.avi`.
        fps: frames per second.
    """
    scenes: dict[str, Image] = {}
    for scene in Photographs(0).scenes():
        scenes.setdefault(scene.placements[0].label, scene.image)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (WIDTH, HEIGHT))
    if not writer.isOpened():
        raise FoldcamError(f"{path} cannot be encoded: this OpenCV has no MJPG encoder.")
    steps = round(_SECONDS_EACH * fps)
    for label in labels:
        image = scenes[label]
        for step in range(steps):
            writer.write(cv2.cvtColor(_view(image, step / steps), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def _view(image: Image, share: float) -> Image:
    """A window of 4 : 3 that moves in a circle and slowly comes nearer."""
    height, width = image.shape[:2]
    wide = min(width, height * WIDTH / HEIGHT) * (0.95 - 0.2 * share)
    tall = wide * HEIGHT / WIDTH
    angle = 2 * np.pi * share
    left = (width - wide) * (0.5 + 0.45 * np.cos(angle))
    top = (height - tall) * (0.5 + 0.45 * np.sin(angle))
    matrix = np.array([[WIDTH / wide, 0, -left * WIDTH / wide],
                       [0, HEIGHT / tall, -top * HEIGHT / tall]])  # fmt: skip
    view = cv2.warpAffine(image, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC)
    return np.asarray(view, np.uint8)


def frames_of(path: Path) -> list[Image]:
    """Every frame of a short film as `uint8 [H, W, 3]` RGB."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        done, frame = capture.read()
        if not done:
            break
        frames.append(np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8))
    capture.release()
    if not frames:
        raise FoldcamError(f"{path} has no frame.")
    return frames


def serve(
    model: FoldedModel,
    gallery: Gallery,
    films: list[Path],
    options: ServeOptions,
    fps: float,
    seconds: float,
) -> None:
    """Play the films as live streams until `seconds` are over.

    A frame that is late when its turn comes is dropped, as a camera's would be.
    """
    monitor = Monitor()
    streams = [frames_of(film) for film in films]
    for film in films:
        monitor.state(monitor.add_stream(film.stem, live=True), State.streaming)
    begun = time.monotonic()
    with LivePage(options, monitor, model.contract, gallery=gallery) as page:
        sink = monitor.add_sink(page.name)
        print(page.url, flush=True)
        due = 0
        while time.monotonic() < begun + seconds:
            number = int((time.monotonic() - begun) * fps)
            if number < due:
                time.sleep(max(0.0, begun + due / fps - time.monotonic()))
                continue
            for stream, frames in enumerate(streams):
                monitor.dropped(stream, Cause.overtaken, number - due)
                captured = time.monotonic()
                image = frames[number % len(frames)]
                name = films[stream].stem
                monitor.captured(stream, 0.0)
                frame = Frame(image, number, name, PurePath(name), number / fps, captured, stream)
                result = model(image)
                spent = result.timings
                monitor.processed(
                    stream, 1e3 * (time.monotonic() - captured),
                    {"preprocess": spent.preprocess_ms, "inference": spent.inference_ms},
                )  # fmt: skip
                handed = time.monotonic()
                page.write(FrameResults(frame, [result]))
                monitor.wrote(sink, 1e3 * (time.monotonic() - handed))
            due = number + 1


def main() -> None:
    """What the page's check starts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("films", type=Path, nargs="+")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token")
    parser.add_argument("--fps", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=600.0)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = ServeOptions(host=given.host, port=given.port, token=given.token)
    with (
        FoldedModel.load(given.model, "cpu", 1) as model,
        Gallery(gallery_path(given.model), model.contract) as gallery,
        contextlib.suppress(KeyboardInterrupt),
    ):
        serve(model, gallery, given.films, options, given.fps, given.seconds)


if __name__ == "__main__":
    main()
