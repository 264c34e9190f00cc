"""Where the results of a run go, and how their files are kept in bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

MapsFormat = Literal["npz", "png"]


@dataclass(frozen=True)
class OutputOptions:
    """Where results go; any number at once.

    Attributes:
        save: a folder or a file of overlays: pictures of photographs, else a video.
        images: a folder of single pictures, also of videos and cameras.
        images_every: of so many frames one becomes a picture.
        maps: a folder of maps as data, one file per frame.
        maps_format: `npz` for NumPy arrays as the network returns them, `png` for heatmaps of the
            frame's size with 16 bits of grey.
        jsonl: a file, or `-` for standard output.
        embedding: whether JSON lines (also of MQTT and the webhook) carry the embedding.
        report: a folder for a page of the run, `report.html`.
        parquet: a file of embeddings, labels and boxes.
        mqtt: `mqtt://user:password@host:1883/topic`; never shown with its credentials.
        webhook: `https://host/path`, to which JSON lines are posted; never shown with its secrets.
        webhook_token_file: a file whose first line is the webhook's token.
        events: a folder for events and their snapshots.
        show: open a window.
        sinks: `module:factory` of sinks of the user's own.
    """

    save: str | None = None
    images: str | None = None
    images_every: int = 1
    maps: str | None = None
    maps_format: MapsFormat = "npz"
    jsonl: str | None = None
    embedding: bool = True
    report: str | None = None
    parquet: str | None = None
    mqtt: str | None = field(default=None, repr=False)
    webhook: str | None = field(default=None, repr=False)
    webhook_token_file: str | None = None
    events: str | None = None
    show: bool = False
    sinks: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecordingOptions:
    """How files of a long run are kept in bounds.

    Attributes:
        rotate_minutes, rotate_mb: a file that is as long or as large is finished, and a new one
            begun; None for never.
        keep_gb: of each output's finished segments the oldest are removed above this.
        min_free_gb: with less room on the disk, recording of a live source pauses.
    """

    rotate_minutes: float | None = None
    rotate_mb: float | None = None
    keep_gb: float | None = None
    min_free_gb: float = 0.5

    @property
    def rotates(self) -> bool:
        """Whether files are segments."""
        return self.rotate_minutes is not None or self.rotate_mb is not None
