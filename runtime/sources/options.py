"""What a user can say of a run, as typed values: filled by flags, by a TOML file, or by Python.

What each field means stands at the field, for flags and files, too; its range is in its type.
Each module below takes the one class that concerns it; none reads flags or files itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from msgspec import Meta

from foldcam.runtime.system.key import key

Keep = Literal["auto", "newest", "every"]
Rotation = Literal[0, 90, 180, 270]
ROTATIONS: tuple[Rotation, ...] = get_args(Rotation)
Transport = Literal["tcp", "udp"]
Decoding = Literal["auto", "hardware", "software"]
_Pixels = Annotated[int, Meta(ge=0, le=1 << 20)]
Box = tuple[_Pixels, _Pixels, _Pixels, _Pixels]
"""`(x, y, width, height)` in whole pixels."""
_Side = Annotated[int, Meta(ge=1, le=1 << 15)]
_Rate = Annotated[float, Meta(gt=0, le=1000)]
_Cells = Annotated[int, Meta(ge=1, le=64)]
_Seconds = Annotated[float, Meta(ge=0, le=1e6)]


@dataclass(frozen=True)
class SourceOptions:
    """How pictures are got from a source."""

    width: _Side | None = key(
        None,
        "Requests this frame width in pixels from a camera (default: the camera's own); raw "
        "frames need it.",
        "--width",
        "1280",
    )
    height: _Side | None = key(
        None,
        "Requests this frame height in pixels from a camera (default: the camera's own); raw "
        "frames need it.",
        "--height",
        "720",
    )
    fps: _Rate | None = key(
        None,
        "Requests this rate in frames per second from a camera (default: the camera's own).",
        "--fps",
        "30.0",
    )
    codec: str | None = key(
        None,
        "Requests this codec, a FourCC such as MJPG, from a camera (default: the camera's own).",
        "--codec",
        '"MJPG"',
    )
    transport: Transport = key(
        "tcp", "Chooses the transport protocol of RTSP streams.", "--transport"
    )
    decode: Decoding = key(
        "auto", "Chooses where video is decoded, on machines that offer both.", "--decode"
    )
    rotate: Rotation = key(
        0, "Rotates each frame clockwise by this many degrees, before anything else.", "--rotate"
    )
    crop: Box | None = key(
        None,
        "Keeps only this part of the rotated frame: x, y, width, height in pixels (default: all "
        "of it).",
        "--crop",
        "[0, 0, 640, 480]",
    )
    every: Annotated[int, Meta(ge=1, le=10**9)] = key(
        1, "Processes one frame out of this many.", "--every"
    )


@dataclass(frozen=True)
class FlowOptions:
    """How frames go through the network, and what happens when something fails."""

    keep: Keep = key(
        "auto",
        "Chooses which frames are processed: newest drops frames that a newer one has "
        "overtaken, every drops none, and auto is newest for live sources and every for "
        "recorded ones.",
        "--keep",
    )
    queue: Annotated[int, Meta(ge=1, le=1024)] = key(
        4, "Limits the number of frames that wait between two stages.", "--queue"
    )
    batch: Annotated[int, Meta(ge=1, le=4096)] | None = key(
        None,
        "Limits the images per forward pass; the default is the number of sources, or of "
        "regions in a frame.",
        "--batch",
        "2",
    )
    stall_seconds: Annotated[float, Meta(gt=0, le=1e6)] = key(
        10.0,
        "Opens a live source again after it has delivered nothing for this many seconds.",
        "--stall-seconds",
    )
    backoff_seconds: _Seconds = key(
        0.5, "Sets the first wait, in seconds, before a source is tried again.", "--backoff-seconds"
    )
    backoff_most_seconds: _Seconds = key(
        30.0,
        "Sets the longest wait, in seconds, before a source is tried again.",
        "--backoff-most-seconds",
    )
    failures: Annotated[int, Meta(ge=1, le=10**6)] = key(
        3, "Ends the run after the backend has failed this many times in a row.", "--failures"
    )
    reconnect: bool = key(
        True, "Opens a live source again when it ends.", "--reconnect/--no-reconnect"
    )
    wait: bool = key(False, "Waits for a live source that cannot be opened at the start.", "--wait")
    gather_seconds: Annotated[float, Meta(ge=0, le=60)] = key(
        0.02,
        "Lets a frame wait at most this many seconds for frames of other live sources, so that "
        "they share a forward pass.",
        "--gather-seconds",
    )
    vote_seconds: Annotated[float, Meta(ge=0.01, le=3600)] | None = key(
        None,
        "Lets the frames of the last so many seconds vote over the label of each region of a "
        "video or camera (default: every frame answers for itself).",
        "--vote",
        "2.0",
    )


@dataclass(frozen=True)
class RegionOptions:
    """Which parts of a frame the network gets, one row of a batch each; by default all of it.

    A detector is given the frame, `uint8 [H, W, 3]` RGB, and returns boxes `[n, 4]` of x, y, width
    and height in pixels.
    """

    boxes: tuple[Box, ...] = key(
        (),
        "Runs the network on this region of the frame: x, y, width, height in pixels (default: "
        "the whole frame).",
        "--region",
        "[[0, 0, 320, 240], [320, 0, 320, 240]]",
    )
    grid: tuple[_Cells, _Cells] | None = key(
        None,
        "Runs the network on the cells of an equal grid of this many columns and rows (default: "
        "no grid).",
        "--grid",
        "[3, 2]",
    )
    detector: str | None = key(
        None,
        "Runs the network on the boxes that your function (module:function) returns for each "
        "frame (default: none).",
        "--detector",
        '"my_package.detector:find"',
    )
    file: str | None = key(
        None,
        "Runs the network on the boxes in this JSONL file, which has one line per frame "
        "(default: none).",
        "--boxes",
        '"boxes.jsonl"',
    )


@dataclass(frozen=True)
class ServeOptions:
    """Where the live page is served."""

    host: str = key(
        "127.0.0.1",
        "The address on which the page is served; any other than loopback needs a token.",
    )
    port: Annotated[int, Meta(ge=0, le=65535)] = key(
        8080, "The TCP port of the page; 0 takes a free one."
    )
    token: str | None = key(
        None,
        "The token that viewers need; token_file or FOLDCAM_TOKEN is a better place for it.",
        example='""',
        secret=True,
    )
    clients: Annotated[int, Meta(ge=1, le=10**5)] = key(
        64, "Limits the number of viewers at a time.", "--clients"
    )
    names: tuple[str, ...] = key(
        (),
        "Allows a host name under which a reverse proxy shows the page (default: none).",
        "--serve-name",
        '["cameras.example.org"]',
    )
    fps: _Rate = key(
        15.0, "Limits the pictures per second that each viewer is sent.", "--serve-fps"
    )
