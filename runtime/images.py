"""Reading and writing photographs.

Everything is `uint8 [H, W, 3]` RGB on this side. Bank, calibration and device read
their images here, so that none of them can disagree about rotation, alpha or depth.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePath

import cv2
import numpy as np

from runtime.errors import FoldcamError
from runtime.files import atomic_path
from runtime.image_format import MAX_IMAGE_BYTES, check_complete, image_format
from runtime.opencv import quiet
from runtime.preprocess import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
READABLE = "JPEG, PNG, WebP, BMP or TIFF"


def read_image(path: Path | str) -> Image:
    """Read a photograph the way a viewer shows it.

    The EXIF rotation is applied, grey becomes three equal channels, 16 bits become
    8 (the high byte). Alpha is dropped without compositing, as PIL's `convert("RGB")`
    and most training pipelines do: the network must see what it was trained on.

    Args:
        path: a JPEG, PNG, WebP, BMP or TIFF file; the content decides, not the suffix.

    Returns:
        `uint8 [H, W, 3]` RGB.

    Raises:
        FoldcamError: missing, empty, not an image, truncated, damaged or too large.
    """
    path = Path(path)
    data = _read_bytes(path)
    kind = image_format(data)
    if kind is None:
        raise FoldcamError(f"{path} is not an image that foldcam reads ({READABLE}).")
    check_complete(data, kind, path)
    quiet()
    try:
        # ANYDEPTH, so that 16 bits become 8 by our rule: it differs between decoders.
        decoded = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
        )
    except cv2.error:
        raise FoldcamError(
            f"{path} cannot be decoded: it is damaged or larger than OpenCV reads."
        ) from None
    # OpenCV is typed as never returning None here, and does for a damaged file.
    array = np.asarray(decoded)
    if array.ndim != 3:
        raise FoldcamError(f"{path} is truncated or damaged: it cannot be decoded as {kind}.")
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.dtype != np.uint8:
        raise FoldcamError(
            f"{path} has pixels of type {array.dtype}, and foldcam reads 8 or 16 bits: convert it."
        )
    return np.asarray(cv2.cvtColor(array, cv2.COLOR_BGR2RGB), np.uint8)


def write_image(
    path: Path | str,
    image: Image,
    quality: int = 92,
    another: Callable[[], Path] | None = None,
) -> None:
    """Write an image; the suffix decides the format. Never leaves half a file behind.

    Args:
        path: where to; missing folders are made.
        image: `uint8 [H, W, 3]` RGB.
        quality: of JPEG and WebP, 1 to 100.
        another: gives another name if the name is taken; None writes over what is there.

    Raises:
        FoldcamError: the suffix names no format, the folder cannot be written, the
            disk is full.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise FoldcamError(f"{path} has no image suffix: use one of {', '.join(IMAGE_SUFFIXES)}.")
    options: list[int] = []
    if suffix in (".jpg", ".jpeg"):
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    elif suffix == ".webp":
        options = [cv2.IMWRITE_WEBP_QUALITY, quality]
    try:
        done, encoded = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    except cv2.error:
        done = False
    if not done:
        height, width = image.shape[:2]
        raise FoldcamError(f"{path}: an image of {width} x {height} cannot be encoded as {suffix}.")
    # Written by Python, not by cv2.imwrite, which hides the reason when it fails.
    with atomic_path(path, another) as temporary:
        temporary.write_bytes(encoded.tobytes())


def list_images(folder: Path | str, recursive: bool = True) -> list[Path]:
    """The images of a folder, in an order that does not depend on the file system.

    Numbers sort by value (`2.jpg` before `10.jpg`). Hidden files are left out.

    Raises:
        FoldcamError: no such folder, or it cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FoldcamError(f"{folder} is not a folder.")

    def refuse(error: OSError) -> None:
        raise FoldcamError(f"{error.filename} cannot be read: {error.strerror}.") from error

    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and PurePath(name).suffix.lower() in IMAGE_SUFFIXES:
                found.append(Path(parent) / name)
    return sorted(found, key=natural_key)


def natural_key(path: PurePath) -> tuple[list[list[tuple[int, int, str]]], str]:
    """Sorting key under which numbers within names count by value."""
    parts = [
        [
            (0, int(piece), "") if piece.isdecimal() else (1, 0, piece.casefold())
            for piece in re.split(r"(\d+)", part)
            if piece
        ]
        for part in path.parts
    ]
    # Names that differ only in case or leading zeros still need a fixed order.
    return parts, str(path)


def _read_bytes(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise FoldcamError(f"{path} is a folder, not an image.")
        if not path.is_file():
            reason = "is not a regular file" if path.exists() else "does not exist"
            raise FoldcamError(f"{path} {reason}.")
        size = path.stat().st_size
        if size == 0:
            raise FoldcamError(f"{path} is empty (0 bytes).")
        if size > MAX_IMAGE_BYTES:
            raise FoldcamError(
                f"{path} has {size >> 20} MiB, more than the {MAX_IMAGE_BYTES >> 20} MiB "
                "that foldcam reads as one image."
            )
        return path.read_bytes()
    except OSError as error:
        raise FoldcamError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # a null byte in the name
        raise FoldcamError(f"{str(path)!r} is not a file name.") from error
