"""The GStreamer pipeline of a CSI camera on a Jetson."""

from __future__ import annotations

from fractions import Fraction

from foldcam.runtime.sources.options import SourceOptions

WIDTH, HEIGHT, RATE = 1280, 720, 30.0


def csi_pipeline(sensor: int, options: SourceOptions) -> str:
    """What `csi://` opens, as `gst-launch-1.0` would take it with another end.

    `nvarguscamerasrc` delivers into the GPU's memory (NVMM), `nvvidconv` brings the picture
    to the processor, and `appsink` keeps the newest one only. See NVIDIA's Accelerated
    GStreamer guide.

    Args:
        options: width, height and fps; where they are not given, 1280 x 720 at 30.
    """
    width, height = options.width or WIDTH, options.height or HEIGHT
    rate = Fraction(options.fps or RATE).limit_denominator(1001)
    return " ! ".join(
        (
            f"nvarguscamerasrc sensor-id={sensor}",
            f"video/x-raw(memory:NVMM), width={width}, height={height}, "
            f"framerate={rate.numerator}/{rate.denominator}",
            "nvvidconv",
            "video/x-raw, format=BGRx",
            "videoconvert",
            "video/x-raw, format=BGR",
            "appsink drop=true max-buffers=1 sync=false",
        )
    )
