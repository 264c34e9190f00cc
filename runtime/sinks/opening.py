"""From the flags to sinks."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from runtime.errors import FoldcamError
from runtime.images import IMAGE_SUFFIXES
from runtime.sinks.base import Sink
from runtime.sinks.images import ImagesSink, OneImageSink
from runtime.sinks.jsonl import JsonlSink
from runtime.sinks.video import VIDEO_OUTPUTS, VideoSink
from runtime.sources import Source


def open_sinks(
    source: Source,
    *,
    save: str | None = None,
    jsonl: str | None = None,
    show: bool = False,
    embedding: bool = True,
) -> list[Sink]:
    """Open what `--save`, `--jsonl` and `--show` ask for.

    Args:
        source: decides what `--save FOLDER` means: pictures of photographs, a video of
            a video or camera.
        save: a folder, a video file, or for one photograph an image file.
        jsonl: a file, or `-` for standard output.
        show: open a window.
        embedding: whether the JSON lines carry embeddings.

    Raises:
        FoldcamError: an output cannot be written or shown; nothing is left behind.
    """
    sinks: list[Sink] = []
    with ExitStack() as undo:
        if show:
            from runtime.sinks.window import WindowSink

            sinks.append(WindowSink(hold=source.stills))
            undo.enter_context(sinks[-1])
        if save is not None:
            sinks.append(_saver(Path(save), source))
            undo.enter_context(sinks[-1])
        if jsonl is not None:
            sinks.append(JsonlSink(jsonl, embedding))
            undo.enter_context(sinks[-1])
        undo.pop_all()
    return sinks


def _saver(path: Path, source: Source) -> ImagesSink | OneImageSink | VideoSink:
    suffix = path.suffix.lower()
    if not path.is_dir():
        if suffix in VIDEO_OUTPUTS:
            return VideoSink(path, source)
        if suffix in IMAGE_SUFFIXES:
            if source.stills and source.frames == 1:
                return OneImageSink(path)
            raise FoldcamError(
                f"--save {path} names one picture, and the input has more: give a folder or a "
                f"video file ({', '.join(VIDEO_OUTPUTS)})."
            )
    if source.stills:
        return ImagesSink(path)
    return VideoSink(path / f"{source.stem}.mp4", source)
