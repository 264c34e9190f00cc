"""OpenCV's differences between versions, and its chatter.

JetPack carries 4.8, package indexes carry 4.x and 5.x: what differs is asked here once.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any, cast

# FFmpeg and the video backends read these when they first open something. What they
# would print ("moov atom not found") is said by our own one sentence instead.
for _name, _value in {
    "OPENCV_LOG_LEVEL": "SILENT",
    "OPENCV_FFMPEG_LOGLEVEL": "-8",
    "OPENCV_VIDEOIO_DEBUG": "0",
}.items():
    os.environ.setdefault(_name, _value)

import cv2  # noqa: E402  (after the variables above)


@cache
def quiet() -> None:
    """Stop OpenCV from writing to standard error; harmless when called twice."""
    if "OPENCV_LOG_LEVEL" in os.environ and os.environ["OPENCV_LOG_LEVEL"] != "SILENT":
        return
    module = cast(Any, cv2)
    # cv2.utils.logging is missing in some 4.x wheels, cv2.setLogLevel from 5.0 on.
    owners: list[Any] = [module, getattr(getattr(module, "utils", None), "logging", None)]
    for owner in owners:
        if hasattr(owner, "setLogLevel"):
            owner.setLogLevel(0)
            return


@cache
def build_options() -> dict[str, str]:
    """What this OpenCV was built with: `{"FFMPEG": "YES", "GStreamer": "NO", ...}`."""
    options: dict[str, str] = {}
    for line in cv2.getBuildInformation().splitlines():
        name, separator, value = line.strip().partition(":")
        if separator and name not in options:
            options[name] = value.strip()
    return options


def has(option: str) -> bool:
    """Whether OpenCV was built with `option` (`FFMPEG`, `GStreamer`, `v4l/v4l2`, `GUI`)."""
    value = build_options().get(option, "NO")
    if option == "GUI" and value == "":
        # With a graphical toolkit the line is a heading and the toolkits follow it.
        return True
    return value.split(" ")[0] not in ("NO", "NONE", "")
