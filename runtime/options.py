"""What a user can say of a run, as typed values: filled by flags, by a TOML file, or by Python.

Each module below takes the one class that concerns it; none reads flags or files itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

Keep = Literal["auto", "newest", "every"]
Rotation = Literal[0, 90, 180, 270]
ROTATIONS: tuple[Rotation, ...] = get_args(Rotation)
Transport = Literal["tcp", "udp"]
Decoding = Literal["auto", "hardware", "software"]
Box = tuple[int, int, int, int]
"""`(x, y, width, height)` in whole pixels."""


@dataclass(frozen=True)
class SourceOptions:
    """How pictures are got from a source.

    Attributes:
        width, height: asked of a camera, in pixels; needed for raw frames on standard input.
        fps: asked of a camera, in frames per second.
        codec: asked of a camera, a FourCC such as `MJPG`.
        transport: of RTSP.
        decode: where video is decoded, if there is a choice.
        rotate: degrees clockwise, before anything else.
        crop: part of the rotated frame that is kept; None for all.
        every: of so many frames one is processed; 1 takes all.
    """

    width: int | None = None
    height: int | None = None
    fps: float | None = None
    codec: str | None = None
    transport: Transport = "tcp"
    decode: Decoding = "auto"
    rotate: Rotation = 0
    crop: Box | None = None
    every: int = 1


@dataclass(frozen=True)
class FlowOptions:
    """How frames go through the network, and what happens when something fails.

    Attributes:
        keep: `newest` drops frames that a newer one has overtaken, `every` drops none and
            waits instead; `auto` is the first for live sources and the second for recorded.
        queue: frames and results that may wait between two stages.
        batch: images per forward pass at most; None takes the number of sources, or a
            frame's regions.
        stall_seconds: a live source that delivers nothing for so long is opened again.
        backoff_seconds, backoff_most_seconds: first and longest wait before the next attempt.
        failures: of the backend in a row, after which the run ends.
        reconnect: whether a live source that ends is opened again.
        wait: whether a live source that cannot be opened at the start is waited for, as one
            that was lost is; otherwise that is an error, since it is most often a mistyped
            address.
        gather_seconds: a frame waits at most so long for those of the other live sources,
            so that they share a forward pass.
        vote_seconds: the answers of a region are voted over the frames of so many seconds, see
            `foldcam.runtime.voting`; None for no votes.
    """

    keep: Keep = "auto"
    queue: int = 4
    batch: int | None = None
    stall_seconds: float = 10.0
    backoff_seconds: float = 0.5
    backoff_most_seconds: float = 30.0
    failures: int = 3
    reconnect: bool = True
    wait: bool = False
    gather_seconds: float = 0.02
    vote_seconds: float | None = None


@dataclass(frozen=True)
class RegionOptions:
    """Which parts of a frame the network is shown, one row of a batch each; none: all of it.

    Attributes:
        boxes: fixed ones, in pixels of the frame.
        grid: `(columns, rows)` of equal cells.
        detector: `module:function`, frame `uint8 [H, W, 3]` RGB to boxes `[n, 4]` of
            `x, y, width, height` in pixels.
        file: JSONL of boxes, one line per frame.
    """

    boxes: tuple[Box, ...] = ()
    grid: tuple[int, int] | None = None
    detector: str | None = None
    file: str | None = None


@dataclass(frozen=True)
class ServeOptions:
    """Where the live page is served.

    Attributes:
        host: loopback unless asked otherwise.
        port: of TCP; 0 takes a free one.
        token: needed on every route unless the host is loopback; where one is given, it is
            needed there, too.
        clients: streams at most; one more is refused.
        names: host names under which a reverse proxy or a name server shows the page;
            addresses, `localhost` and this machine's own name need not be among them.
        fps: pictures per second that each stream sends at most; the run's own rate is
            not touched.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = field(default=None, repr=False)
    clients: int = 64
    names: tuple[str, ...] = ()
    fps: float = 15.0
