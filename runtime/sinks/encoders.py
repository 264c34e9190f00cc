"""Encoders of films: H.264, which browsers and phones play, where this machine has it.

The wheels of OpenCV have no H.264 encoder; OpenCV of a Linux distribution (JetPack's too) mostly
has one, and so has its program `ffmpeg`, which gets the frames through a pipe. What works is found
out once, by a film of two frames. Without either, films are MPEG-4 part 2, and the log says so.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from contextlib import suppress
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import IO, Literal

import cv2
import numpy as np

from foldcam.runtime.images.opencv import quiet
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.logs import log
from foldcam.runtime.system.text import printable

Codec = Literal["avc1", "mp4v", "MJPG", "libx264", "libopenh264"]
FALLBACKS: dict[str, Codec] = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}
_FORMATS = {".mp4": "mp4", ".mkv": "matroska"}
_BY_PROGRAM: tuple[Codec, ...] = ("libx264", "libopenh264")
_OPTIONS: dict[Codec, tuple[str, ...]] = {
    # Twice the processor time of OpenCV's MPEG-4 part 2, half the size, and closer to the frames;
    # presets that are slower take the time from the network.
    "libx264": ("-preset", "superfast", "-crf", "23"),
    "libopenh264": ("-b:v", "4M"),
}
_KEY_FRAMES_S = 2.0
_END_S = 60.0
# A terminal and systemd send these to the encoder, too, whose work ends when the run's does.
_NOT_FOR_IT = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def playable_frames(path: Path, most: int) -> int:
    """How many frames of a film can be played, from its first one.

    Returns:
        `most`, if the film says that it has as many, give or take two (Matroska estimates), and
        its end can be played. Else they are decoded and counted, because a film that was cut
        does not know.
    """
    quiet()
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened() or not capture.read()[0]:
            return 0
        if most - 2 <= capture.get(cv2.CAP_PROP_FRAME_COUNT) <= 2 * most + 2:
            capture.set(cv2.CAP_PROP_POS_FRAMES, max(0, most - 3))
            if capture.read()[0]:
                return most
        capture.release()
        capture.open(str(path))
        counted = 0
        while counted < most and capture.grab():
            counted += 1
        return counted
    except cv2.error:
        return 0
    finally:
        capture.release()


def is_playable(path: Path) -> bool:
    """Whether a film that was cut off plays; one without an index of its own does not."""
    return playable_frames(path, 1) > 0


class Encoder(ABC):
    """Writes frames of one size into a file."""

    @abstractmethod
    def write(self, image: Image) -> None:
        """Append `uint8 [H, W, 3]` RGB."""

    @abstractmethod
    def release(self) -> None:
        """End the film as well as it can be; whoever needs it whole reads it back."""


class OpencvEncoder(Encoder):
    """OpenCV's own, which never says that a disk is full."""

    def __init__(self, path: Path, codec: Codec, fps: float, frame_wh: tuple[int, int]) -> None:
        quiet()
        code = cv2.VideoWriter.fourcc(*codec)
        try:
            self._writer = cv2.VideoWriter(str(path), code, fps, frame_wh)
            opened = self._writer.isOpened()
        except cv2.error:
            opened = False
        if not opened:
            raise FoldcamError(
                f"this OpenCV has no {codec} encoder for {frame_wh[0]} x {frame_wh[1]} "
                "(see `runtime doctor`)"
            )

    def write(self, image: Image) -> None:
        """See `Encoder`."""
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def release(self) -> None:
        """See `Encoder`."""
        self._writer.release()


class ProgramEncoder(Encoder):
    """The program `ffmpeg`, which ends the film properly even if this process is killed."""

    def __init__(
        self,
        path: Path,
        codec: Codec,
        fps: float,
        frame_wh: tuple[int, int],
        lock: int | None = None,
    ) -> None:
        program = shutil.which("ffmpeg")
        if program is None:
            raise FoldcamError("there is no program ffmpeg")
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `release`)
        rate = Fraction(fps).limit_denominator(10_000)
        command = [
            program, "-hide_banner", "-loglevel", "error", "-nostdin", "-y",
            "-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{frame_wh[0]}x{frame_wh[1]}",
            "-r", str(rate), "-i", "pipe:0",
            "-c:v", codec, *_OPTIONS[codec], "-g", str(max(1, round(_KEY_FRAMES_S * fps))),
            # What OpenCV's conversion below makes, so that players show the same colours.
            "-color_range", "tv", "-colorspace", "smpte170m", "-color_primaries", "smpte170m",
            "-color_trc", "smpte170m", "-f", _FORMATS[path.suffix.lower()], f"file:{path}",
        ]  # fmt: skip
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_IT)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                pass_fds=() if lock is None else (lock,),
            )
        except OSError as error:
            self._said.close()
            raise FoldcamError(f"ffmpeg does not start: {error.strerror or error}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def write(self, image: Image) -> None:
        """See `Encoder`."""
        assert self._process.stdin is not None
        frame = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except (OSError, ValueError) as error:
            raise FoldcamError(f"the program ffmpeg ended: {self._reason()}") from error

    def release(self) -> None:
        """See `Encoder`."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _reason(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return printable(lines[-1]) if lines else f"exit status {self._process.returncode}"


def open_encoder(
    path: Path, fps: float, frame_wh: tuple[int, int], lock: int | None = None
) -> Encoder:
    """Begin a film."""
    suffix = path.suffix.lower()
    codec = best_codec(suffix)
    try:
        return _opened(path, codec, fps, frame_wh, lock)
    except FoldcamError:
        if codec == FALLBACKS[suffix]:
            raise
    return _opened(path, FALLBACKS[suffix], fps, frame_wh, lock)


@cache
def best_codec(suffix: str) -> Codec:
    """The codec of films with this suffix on this machine; says once if it is not H.264."""
    if suffix not in _FORMATS:
        return FALLBACKS[suffix]
    for codec in ("avc1", *_BY_PROGRAM):
        if _works(codec, suffix):
            return codec
    log.warning(
        "films are written as MPEG-4 part 2, which browsers do not play: neither this OpenCV nor "
        "a program ffmpeg encodes H.264 here (on Debian and Ubuntu: apt install ffmpeg)"
    )
    return FALLBACKS[suffix]


def _opened(
    path: Path, codec: Codec, fps: float, frame_wh: tuple[int, int], lock: int | None
) -> Encoder:
    if codec in _BY_PROGRAM:
        return ProgramEncoder(path, codec, fps, frame_wh, lock)
    return OpencvEncoder(path, codec, fps, frame_wh)


def _works(codec: Codec, suffix: str) -> bool:
    """Whether a film of two frames can be written, and read by this OpenCV."""
    try:
        with tempfile.TemporaryDirectory(prefix="foldcam-") as folder:
            path = Path(folder) / f"film{suffix}"
            encoder = _opened(path, codec, 25.0, (320, 240), None)
            try:
                for _ in range(2):
                    encoder.write(np.zeros((240, 320, 3), np.uint8))
            finally:
                encoder.release()
            return is_playable(path)
    except (FoldcamError, OSError, cv2.error):
        return False
