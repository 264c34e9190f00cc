"""Where the results of a run go, and how their files are kept in bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from foldcam.runtime.system.key import key

MapsFormat = Literal["npz", "png"]


@dataclass(frozen=True)
class OutputOptions:
    """Where results go; any number at once."""

    save: str | None = key(
        None,
        "Writes overlays to this folder or video file (.mp4 .avi .mkv) (default: nowhere).",
        "--save",
        '"out/"',
    )
    images: str | None = key(
        None,
        "Writes overlays as single pictures to this folder, also for videos and cameras "
        "(default: nowhere).",
        "--images",
        '"pictures/"',
    )
    images_every: Annotated[int, Meta(ge=1, le=10**9)] = key(
        1, "Writes one single picture for every so many frames.", "--images-every"
    )
    maps: str | None = key(
        None,
        "Writes the maps as data to this folder, one file per frame (default: nowhere).",
        "--maps",
        '"maps/"',
    )
    maps_format: MapsFormat = key(
        "npz",
        "Chooses the format of the maps: npz has every map of the model as float32 NumPy arrays "
        "of the network's own size, with their places in the frame; png has the heatmap at the "
        "frame's size with 16 bits of grey, where 65535 is 1.",
        "--maps-format",
    )
    jsonl: str | None = key(
        None,
        "Writes one JSON line per frame to this file, or to standard output with - (default: "
        "nowhere).",
        "--jsonl",
        '"results.jsonl"',
    )
    embedding: bool = key(
        True,
        "Includes the embedding in JSON lines and MQTT messages.",
        "--embedding/--no-embedding",
    )
    report: str | None = key(
        None,
        "Writes one HTML page, report.html, to this folder: pictures with heat, answers, "
        "matches and the run's figures (default: nowhere).",
        "--report",
        '"out/"',
    )
    parquet: str | None = key(
        None,
        "Writes embeddings, labels and boxes to this Parquet file (default: nowhere).",
        "--parquet",
        '"embeddings.parquet"',
    )
    mqtt: str | None = key(
        None,
        "Publishes results to an MQTT broker: mqtt://host:1883/topic, or mqtts:// with TLS "
        "(default: none).",
        "--mqtt",
        '"mqtt://user:password@broker/cameras/door"',
        secret=True,
    )
    webhook: str | None = key(
        None,
        "Posts each JSON line to this web address, https:// or http:// (default: none).",
        "--webhook",
        '"https://example.org/hooks/door"',
        secret=True,
    )
    webhook_token_file: str | None = key(
        None,
        "Sends the first line of this file to the webhook as a bearer token (default: the "
        "environment variable FOLDCAM_WEBHOOK_TOKEN, if it is set).",
        "--webhook-token-file",
        '"webhook-token.txt"',
    )
    events: str | None = key(
        None,
        "Writes events.jsonl and snapshots to this folder, and needs a rule (default: nowhere).",
        "--events",
        '"events/"',
    )
    show: bool = key(False, "Opens a window that shows the overlays.", "--show")
    sinks: tuple[str, ...] = key(
        (),
        "Sends results to a sink of your own, made by module:factory (default: none).",
        "--sink",
        '["my_package.sinks:make"]',
    )


@dataclass(frozen=True)
class RecordingOptions:
    """How files of a long run are kept in bounds."""

    rotate_minutes: Annotated[float, Meta(ge=0.001, le=1e6)] | None = key(
        None,
        "Begins a new file after this many minutes (default: never).",
        "--rotate-minutes",
        "60.0",
    )
    rotate_mb: Annotated[float, Meta(ge=0.001, le=1e9)] | None = key(
        None,
        "Begins a new file after this many megabytes (default: never).",
        "--rotate-mb",
        "500.0",
    )
    keep_gb: Annotated[float, Meta(ge=1e-6, le=1e6)] | None = key(
        None,
        "Removes the oldest segments of each output beyond this many gigabytes (default: keeps "
        "all).",
        "--keep-gb",
        "50.0",
    )
    min_free_gb: Annotated[float, Meta(ge=0, le=1e6)] = key(
        0.5,
        "Pauses the recording of live sources while the disk has less than this many gigabytes "
        "free.",
        "--min-free-gb",
    )

    @property
    def rotates(self) -> bool:
        """Whether files are segments."""
        return self.rotate_minutes is not None or self.rotate_mb is not None
