"""What a user calls a source, taken apart; nothing is opened here.

An address may hold a user name, a password or a token. Those stay in `Address.target`; its
`name` and `stem`, and every message, are free of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote

from foldcam.runtime.sources.options import SourceOptions
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.redaction import bare_address, keep_secret
from foldcam.runtime.system.text import printable, shorten

Kind = Literal["path", "v4l2", "csi", "stream", "pattern", "raw"]
STREAMS = ("rtsp", "rtsps", "http", "https", "tcp", "udp")
SCHEMES = ("file", "v4l2", "csi", "test", *STREAMS)
MAX_SIDE = 16_384

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_DEVICE = re.compile(r"/dev/video([0-9]{1,3})")


@dataclass(frozen=True)
class Address:
    """A source by kind."""

    kind: Kind
    name: str
    stem: str
    options: SourceOptions
    target: str = field(repr=False)
    seed: int = 0
    frames: int | None = None


def parse_address(text: str, options: SourceOptions | None = None) -> Address:
    """Take an address apart."""
    keep_secret(text)
    options = options or SourceOptions()
    if text == "-":
        return _raw(options)
    if device := _DEVICE.fullmatch(text):
        return _device(text, options, f"camera-{int(device.group(1))}")
    match = _SCHEME.fullmatch(text)
    if match is None:
        return Address("path", text, "", options, text)
    scheme, rest = match.group(1).lower(), match.group(2)
    if scheme in STREAMS:
        return Address("stream", bare_address(text), _stem(text, scheme), options, text)
    path, _, query = rest.partition("?")
    shown = bare_address(text)
    if scheme == "file":
        return _file(path, options, shown)
    if scheme == "v4l2":
        return _v4l2(path, _query(query, shown, _CAMERA, options), shown)
    if scheme == "csi":
        return _csi(path, _query(query, shown, _CAMERA, options), shown)
    if scheme == "test":
        return _pattern(path, query, shown, options)
    raise FoldcamError(
        f"{shown} has the scheme {printable(scheme)!r}, which is not supported: use a path, "
        f"/dev/videoN, -, or one of {', '.join(f'{name}://' for name in SCHEMES)}."
    )


def _raw(options: SourceOptions) -> Address:
    if options.width is None or options.height is None:
        raise FoldcamError(
            "Raw frames on standard input need their size: give width and height, as in "
            "--width 640 --height 480."
        )
    return Address("raw", "standard input", "stdin", options, "-")


def _file(rest: str, options: SourceOptions, shown: str) -> Address:
    # What stands before the first slash is a host; `?` and `#` are %3F and %23 in a name.
    _, slash, path = rest.partition("#")[0].partition("/")
    if not slash:
        raise FoldcamError(f"{shown} names no file: write file:///path, with three slashes.")
    path = unquote(slash + path)
    return Address("path", path, "", options, path)


def _device(path: str, options: SourceOptions, stem: str) -> Address:
    number = _DEVICE.fullmatch(path)
    name = f"camera {int(number.group(1))}" if number else printable(path)
    return Address("v4l2", name, stem, options, path)


def _v4l2(path: str, options: SourceOptions, shown: str) -> Address:
    path = unquote(path)
    if not path.startswith("/"):
        raise FoldcamError(
            f"{shown} names no device: write v4l2:///dev/video0, with three slashes."
        )
    return device_address(path, options)


def device_address(path: str, options: SourceOptions) -> Address:
    """A camera of this machine by the path of its device, such as `/dev/v4l/by-id/...`."""
    number = _DEVICE.fullmatch(path)
    stem = re.sub(r"[^A-Za-z0-9.-]+", "-", path.rpartition("/")[2]).strip("-.") or "camera"
    return _device(path, options, f"camera-{int(number.group(1))}" if number else stem)


def _csi(path: str, options: SourceOptions, shown: str) -> Address:
    if not re.fullmatch(r"[0-9]{1,2}", path):
        raise FoldcamError(f"{shown} names no sensor: write csi://0.")
    number = int(path)
    return Address("csi", f"csi://{number}", f"csi-{number}", options, str(number))


def _pattern(path: str, query: str, shown: str, options: SourceOptions) -> Address:
    if path.strip("/"):
        raise FoldcamError(f"{shown}: a test pattern is written test://?size=640x480.")
    extra: dict[str, int] = {}
    options = _query(query, shown, _PATTERN, options, extra)
    return Address(
        "pattern", "test pattern", "test", options, "", extra.get("seed", 0), extra.get("frames")
    )


Setting = Callable[[str], dict[str, Any]]


def _size(text: str) -> dict[str, Any]:
    width, _, height = text.lower().partition("x")
    return {"width": _whole(width, 1, MAX_SIDE), "height": _whole(height, 1, MAX_SIDE)}


def _whole(text: str, low: int, high: int) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text) or not low <= int(text) <= high:
        raise ValueError(f"is no whole number from {low} to {high}")
    return int(text)


def _side(name: str) -> Setting:
    return lambda text: {name: _whole(text, 1, MAX_SIDE)}


def _rate(text: str) -> dict[str, Any]:
    try:
        rate = float(text) if re.fullmatch(r"[0-9.]{1,18}", text) else math.nan
    except ValueError:
        rate = math.nan
    if not 0.01 <= rate <= 1000.0:
        raise ValueError("is no number from 0.01 to 1000")
    return {"fps": rate}


def _codec(text: str) -> dict[str, Any]:
    if not re.fullmatch(r"[A-Za-z0-9]{4}", text):
        raise ValueError("is no FourCC such as MJPG")
    return {"codec": text.upper()}


_CAMERA: dict[str, Setting] = {
    "size": _size, "width": _side("width"), "height": _side("height"), "rate": _rate,
    "codec": _codec,
}  # fmt: skip
_PATTERN: dict[str, Setting] = {
    "size": _size, "rate": _rate,
    "frames": lambda text: {"frames": _whole(text, 1, 10**15)},
    "seed": lambda text: {"seed": _whole(text, 0, 2**32 - 1)},
}  # fmt: skip


def _query(
    query: str,
    shown: str,
    settings: dict[str, Setting],
    options: SourceOptions,
    extra: dict[str, int] | None = None,
) -> SourceOptions:
    """The options with what the query says of them; the rest goes into `extra`."""
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in settings:
            raise FoldcamError(
                f"{shown}: {printable(shorten(key, 40))!r} is not known there: use "
                f"{', '.join(settings)}."
            )
        try:
            found = settings[key](value)
        except ValueError as error:
            raise FoldcamError(
                f"{shown}: {key}={printable(shorten(value, 40))!r} {error}."
            ) from error
        if extra is not None:
            extra |= {name: found.pop(name) for name in ("seed", "frames") if name in found}
        options = replace(options, **found)
    return options


def _stem(uri: str, scheme: str) -> str:
    """A file name for outputs, from the address."""
    host = bare_address(uri).partition("://")[2].rpartition("@")[2].partition("/")[0]
    host = host.partition("?")[0].partition("#")[0]
    host = re.sub(r":[0-9]+$", "", host)
    return re.sub(r"[^A-Za-z0-9.-]+", "-", f"{scheme}-{host}").strip("-.") or scheme
