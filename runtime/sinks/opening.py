"""From options to sinks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.images.files import WRITTEN_SUFFIXES
from foldcam.runtime.images.format import FILM_SUFFIXES, IMAGE_SUFFIXES
from foldcam.runtime.model.frame_results import FrameResults
from foldcam.runtime.sinks.base import Part, Reopens, Sink
from foldcam.runtime.sinks.custom import open_custom
from foldcam.runtime.sinks.encoders import is_playable
from foldcam.runtime.sinks.event_rules import EventRule
from foldcam.runtime.sinks.events import EventSink, boxes_of, check_possible
from foldcam.runtime.sinks.jsonl import GrowingJsonlSink, JsonlSink, is_direct, repair_jsonl
from foldcam.runtime.sinks.options import OutputOptions, RecordingOptions
from foldcam.runtime.sinks.pictures import MapsSink, PicturesSink, names_one_picture, stems_of
from foldcam.runtime.sinks.recording import Recording
from foldcam.runtime.sinks.report import ReportSink
from foldcam.runtime.sinks.segments import DiskGuard, Segments
from foldcam.runtime.sinks.video import VIDEO_OUTPUTS, VideoSink
from foldcam.runtime.sources import Source
from foldcam.runtime.system.errors import FoldcamError


def open_sinks(
    source: Source,
    *,
    save: str | None = None,
    jsonl: str | None = None,
    show: bool = False,
    embedding: bool = True,
) -> list[Sink]:
    """Open what `--save`, `--jsonl` and `--show` ask for; see `open_outputs`.

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
    output = OutputOptions(save=save, jsonl=jsonl, show=show, embedding=embedding)
    return open_outputs([source], output)


def open_outputs(
    sources: Sequence[Source],
    output: OutputOptions,
    recording: RecordingOptions | None = None,
    events: Sequence[EventRule] = (),
    *,
    contract: Contract | None = None,
) -> list[Sink]:
    """Open every output of a run.

    Args:
        sources: of the run, opened; `Frame.stream` counts them.
        output: which outputs.
        recording: how their files are kept in bounds.
        events: rules, for `output.events` and `output.mqtt`.
        contract: of the model; needed for Parquet and for events.

    Raises:
        FoldcamError: an output cannot be written or shown; nothing is left behind.
        ValueError: the contract is needed and missing.
    """
    return _Opening(sources, output, recording or RecordingOptions(), events, contract).sinks()


class _Opening:
    """What all outputs share while they are opened."""

    def __init__(
        self,
        sources: Sequence[Source],
        output: OutputOptions,
        recording: RecordingOptions,
        events: Sequence[EventRule],
        contract: Contract | None,
    ) -> None:
        self._sources, self._output, self._recording = sources, output, recording
        self._events, self._contract = events, contract
        self._boxes = boxes_of(events)
        self._live = any(source.live for source in sources)
        keep = recording.keep_gb
        self._keep_bytes = None if keep is None else 1e9 * keep
        self._guards: dict[Path, DiskGuard] = {}

    def _check_folders(self) -> None:
        """Overlays of photographs have the photographs' names, wherever they are asked for."""
        save, images = self._output.save, self._output.images
        stills = all(source.stills for source in self._sources)
        if save and images and stills and Path(save).resolve() == Path(images).resolve():
            raise FoldcamError(
                f"--save and --images would write the same pictures into {save}: give one of them."
            )
        maps = self._output.maps
        for flag, folder in (("--save", save), ("--images", images)):
            if maps and folder and Path(folder).resolve() == Path(maps).resolve():
                raise FoldcamError(
                    f"{flag} and --maps would both write into {maps}, where names may be the same: "
                    "give each a folder of its own."
                )

    def sinks(self) -> list[Sink]:
        output = self._output
        self._check_folders()
        opened: list[Sink] = []
        with ExitStack() as undo:

            def add(sink: Sink) -> None:
                opened.append(sink)
                # A sink that was never entered closes nothing but what it has begun.
                undo.push(sink)

            if output.show:
                from foldcam.runtime.sinks.window import WindowSink

                add(WindowSink(hold=all(source.stills for source in self._sources)))
            if output.save is not None:
                for sink in self._savers(Path(output.save)):
                    add(sink)
            if output.images is not None:
                add(self._pictures(Path(output.images)))
            if output.maps is not None:
                add(self._maps(Path(output.maps)))
            if output.jsonl is not None:
                add(self._jsonl(output.jsonl))
            if output.report is not None:
                add(ReportSink(Path(output.report), self._sources, self._contract))
            if output.parquet is not None:
                add(self._parquet(Path(output.parquet)))
            callbacks: list[Callable[[dict[str, Any]], None]] = []
            if output.mqtt is not None:
                from foldcam.runtime.sinks.mqtt import MqttSink

                mqtt = MqttSink(
                    output.mqtt, output.embedding, patient=not self._live, boxes=self._boxes
                )
                callbacks.append(mqtt.publish_event)
                add(mqtt)
            if output.webhook is not None:
                from foldcam.runtime.sinks.webhook import WebhookSink

                add(
                    WebhookSink(
                        output.webhook, output.webhook_token_file, output.embedding,
                        patient=not self._live, boxes=self._boxes,
                    )
                )  # fmt: skip
            if self._events:
                add(self._event_sink(callbacks))
            for text in output.sinks:
                add(open_custom(text, self._sources))
            undo.pop_all()
        return opened

    def _guard(self, folder: Path) -> DiskGuard | None:
        """One guard per folder; none where a frame that is left out could not be had again."""
        if not self._live:
            return None
        if folder not in self._guards:
            self._guards[folder] = DiskGuard(folder, 1e9 * self._recording.min_free_gb)
        return self._guards[folder]

    def _savers(self, path: Path) -> list[Sink]:
        suffix = path.suffix.lower()
        several = len(self._sources) > 1
        if not path.is_dir():
            if suffix in VIDEO_OUTPUTS:
                if several:
                    raise FoldcamError(
                        f"--save {path} names one video, and there are {len(self._sources)} "
                        "sources: give a folder."
                    )
                return [self._video(path, self._sources[0])]
            if suffix in WRITTEN_SUFFIXES:
                if names_one_picture(path, self._sources):
                    return [PicturesSink(path, self._sources)]
                raise FoldcamError(
                    f"--save {path} names one picture, and the input has more: give a folder or a "
                    f"video file ({', '.join(VIDEO_OUTPUTS)})."
                )
            if suffix in (*IMAGE_SUFFIXES, *FILM_SUFFIXES):
                raise FoldcamError(
                    f"--save {path}: {suffix} is not written; films are "
                    f"{', '.join(VIDEO_OUTPUTS)}, a picture is {', '.join(WRITTEN_SUFFIXES)}, and "
                    "anything else is a folder."
                )
        sinks: list[Sink] = []
        # A segment that is cut off by a power failure plays if its container needs no index.
        ending = ".mkv" if self._recording.rotates else ".mp4"
        for stream, (source, stem) in enumerate(
            zip(self._sources, stems_of(self._sources), strict=True)
        ):
            saver: Sink
            if source.stills:
                saver = PicturesSink(path / stem if several else path, [source])
            else:
                saver = self._video(path / f"{stem}{ending}", source)
            sinks.append(OfStream(saver, stream) if several else saver)
        return sinks

    def _video(self, path: Path, source: Source) -> Sink:
        if not source.live and not self._recording.rotates:
            return VideoSink(path, source)
        return Recording(
            "video", path, self._recording, source.live,
            # A live source's time begins with its first frame, which the network may have missed.
            lambda part: VideoSink(
                part, source, 0.0 if part == path else None, another=Segments(path).next
            ),
            is_playable,
            self._guard(path.parent) if source.live else None,
        )  # fmt: skip

    def _pictures(self, folder: Path) -> Sink:
        return PicturesSink(
            folder, self._sources, self._output.images_every, self._keep_bytes, self._guard(folder)
        )

    def _maps(self, folder: Path) -> Sink:
        return MapsSink(
            folder, self._sources, self._output.maps_format, self._keep_bytes, self._guard(folder)
        )

    def _jsonl(self, target: str) -> Sink:
        embedding, boxes = self._output.embedding, self._boxes
        if is_direct(target) or not (self._live or self._recording.rotates):
            return JsonlSink(target, embedding, boxes=boxes)
        path = Path(target)

        def begin(part: Path) -> Part:
            if self._live:
                return GrowingJsonlSink(part, embedding, boxes)
            return JsonlSink(str(part), embedding, Segments(path).next, boxes=boxes)

        return Recording(
            "jsonl", path, self._recording, self._live, begin, repair_jsonl,
            self._guard(path.parent), grows=self._live,
        )  # fmt: skip

    def _parquet(self, path: Path) -> Sink:
        from foldcam.runtime.sinks.parquet import ParquetSink, is_whole_parquet

        if self._contract is None:
            raise ValueError("Parquet needs the model's contract")
        size, boxes = self._contract.bank.embedding_size, self._boxes
        if not (self._live or self._recording.rotates):
            return ParquetSink(path, size, boxes=boxes)
        return Recording(
            "parquet", path, self._recording, self._live,
            lambda part: ParquetSink(part, size, another=Segments(path).next, boxes=boxes),
            is_whole_parquet,
            self._guard(path.parent),
        )  # fmt: skip

    def _event_sink(self, callbacks: Sequence[Callable[[dict[str, Any]], None]]) -> Sink:
        if self._contract is None:
            raise ValueError("events need the model's contract")
        contract, folder = self._contract, self._output.events
        labels = None if contract.outcome is not None else [run.name for run in contract.labels]
        path = None if folder is None else Path(folder)
        check_possible(self._events, labels, contract.unknown is not None)
        return EventSink(
            self._events, self._sources, path, callbacks, self._keep_bytes,
            None if path is None else self._guard(path),
        )  # fmt: skip


class OfStream(Sink):
    """Gives a sink the frames of one source, and no others."""

    def __init__(self, sink: Sink, stream: int) -> None:
        self._sink, self._stream = sink, stream
        self.name = f"{sink.name} {stream}"
        self.may_skip, self.output = sink.may_skip, sink.output

    def close(self, failed: bool) -> None:
        """End the sink."""
        try:
            self._sink.close(failed)
        finally:
            self.output = self._sink.output

    def losses(self) -> tuple[int, str]:
        """Those of the sink."""
        return self._sink.losses()

    def reopen(self) -> None:
        """Open the sink again, if it can be."""
        if isinstance(self._sink, Reopens):
            self._sink.reopen()

    def write(self, item: FrameResults) -> None:
        """Pass a frame on, if it is of the source."""
        if item.frame.stream == self._stream:
            self._sink.write(item)
            self.output = self._sink.output
