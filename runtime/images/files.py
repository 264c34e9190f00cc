"""Reading and writing photographs.

Everything is `uint8 [H, W, 3]` RGB on this side. Bank, calibration and device read
their images here, so that none of them can disagree about rotation, alpha or depth.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from foldcam.runtime.images.format import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from foldcam.runtime.images.format import READABLE, Format, image_format
from foldcam.runtime.images.integrity import check_complete, may_be_filled, with_spare_data
from foldcam.runtime.images.listing import list_images as list_images
from foldcam.runtime.images.listing import natural_key as natural_key
from foldcam.runtime.images.opencv import has, quiet
from foldcam.runtime.images.pixel_limit import check_pixels
from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.images.size import Size, image_size
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path
from foldcam.runtime.system.text import printable

MAX_IMAGE_BYTES = 1 << 30
WRITTEN_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_BAND_BYTES = 1 << 24
# The header of these says exactly what is decoded; the others may crop, or pad to whole tiles.
_EXACT: tuple[Format, ...] = ("JPEG", "PNG", "WebP", "BMP", "JPEG 2000", "PNM")
# Decoders that some OpenCV were built without, by their lines in its build information.
_OPTIONAL: dict[Format, str] = {"AVIF": "AVIF", "GIF": "GIF", "JPEG 2000": "JPEG 2000"}


def read_image(path: Path | str) -> Image:
    """Read a photograph the way a viewer shows it.

    The EXIF rotation is applied, grey becomes three equal channels, 16 bits become
    8 (the high byte). Alpha is dropped without compositing, as PIL's `convert("RGB")`
    and most training pipelines do: the network must see what it was trained on. Of a file
    of several pictures (an animated GIF or WebP, a TIFF of pages) it is the first.

    Args:
        path: a JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, HEIC, JPEG 2000 or PGM/PPM file; the
            content decides, not the suffix.

    Returns:
        `uint8 [H, W, 3]` RGB.

    Raises:
        FoldcamError: missing, empty, not an image, truncated, damaged, above the limit of
            pixels (see `foldcam.runtime.images.pixel_limit`), or HEIC without the extra that
            reads it.

    Example:
        >>> from foldcam import read_image
        >>> image = read_image("photo.png")
        >>> image.shape, image.dtype
        ((96, 96, 3), dtype('uint8'))
    """
    return decode_image(image_bytes(path), path)


def decode_image(data: bytes, path: Path | str) -> Image:
    """The photograph in a file's bytes, see `read_image`."""
    path = Path(path)
    with _enough_memory_for(path):
        return _decoded(data, path)


def _decoded(data: bytes, path: Path) -> Image:
    kind = image_format(data)
    if kind is None:
        raise FoldcamError(f"{path} is not an image that foldcam reads ({READABLE}).")
    check_complete(data, kind, path)
    size = image_size(data, kind)
    if size is None:
        raise FoldcamError(
            f"{path} is truncated or damaged: its {kind} header holds no size that can be read."
        )
    check_pixels(*size, path)
    if kind == "HEIC":
        return _as_promised(decode_heic(data, path), size, kind, path)
    array = _as_promised(_by_opencv(data, kind, path), size, kind, path)
    if kind == "JPEG" and may_be_filled(array, data):
        spared = with_spare_data(data)
        if spared is not None and not np.array_equal(array, _by_opencv(spared, kind, path)):
            raise FoldcamError(
                f"{path} is truncated or damaged: its JPEG header promises {size[0]} x {size[1]} "
                "pixels, and its data end before."
            )
    return _as_rgb(array, path)


def _by_opencv(data: bytes, kind: Format, path: Path) -> np.ndarray:
    """Decoded as OpenCV gives it: `[H, W, 3]` BGR of any depth."""
    quiet()
    try:
        # ANYDEPTH, so that 16 bits become 8 by our rule: it differs between decoders.
        decoded = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
        )
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from None
        raise FoldcamError(
            f"{path} cannot be decoded: it is damaged or larger than OpenCV reads."
        ) from None
    # OpenCV is typed as never returning None here, and does for a damaged file.
    array = np.asarray(decoded)
    if array.ndim != 3:
        if kind in _OPTIONAL and not has(_OPTIONAL[kind]):
            raise FoldcamError(
                f"{path} is a {kind} picture, and this OpenCV ({cv2.__version__}) was built "
                "without a decoder for it: convert it to JPEG or PNG, or install a newer OpenCV."
            )
        raise FoldcamError(f"{path} is truncated or damaged: it cannot be decoded as {kind}.")
    return array


def _as_promised(array: np.ndarray, size: Size, kind: Format, path: Path) -> np.ndarray:
    height, width = array.shape[:2]
    got, promised = sorted((width, height)), sorted(size)
    if got == promised or (kind not in _EXACT and got[0] * got[1] <= size[0] * size[1]):
        return array
    raise FoldcamError(
        f"{path} is damaged: its {kind} header promises {size[0]} x {size[1]} pixels, and "
        f"{width} x {height} were decoded."
    )


def _as_rgb(array: np.ndarray, path: Path) -> Image:
    """BGR of 8 or 16 bits to RGB of 8, in bands, so that no second whole picture is needed."""
    if array.dtype not in (np.uint8, np.uint16):
        raise FoldcamError(
            f"{path} has pixels of type {array.dtype}, and foldcam reads 8 or 16 bits: convert it."
        )
    image: Image = array if array.dtype == np.uint8 else np.empty(array.shape, np.uint8)
    rows = max(1, _BAND_BYTES // max(1, array[0].nbytes))
    for top in range(0, len(array), rows):
        band = array[top : top + rows]
        if band.dtype == np.uint16:
            band = (band >> 8).astype(np.uint8)
        try:
            image[top : top + rows] = cv2.cvtColor(band, cv2.COLOR_BGR2RGB)
        except cv2.error:
            raise MemoryError from None
    return image


def write_image(
    path: Path | str, image: Image, quality: int = 92, another: Callable[[], Path] | None = None
) -> None:
    """Write an image; the suffix decides the format. Never leaves half a file behind.

    Args:
        path: where to; missing folders are made. One of .jpg, .jpeg, .png, .webp, .bmp, .tif and
            .tiff.
        image: `uint8 [H, W, 3]` RGB.
        quality: the quality of JPEG and WebP, 1 to 100.
        another: gives another name if the name is taken; None writes over what is there.

    Raises:
        FoldcamError: the suffix names no format, the folder cannot be written, the
            disk is full.

    Example:
        >>> import numpy as np
        >>> from foldcam import read_image, write_image
        >>> write_image("pictures/grey.png", np.full((48, 64, 3), 128, np.uint8))
        >>> read_image("pictures/grey.png").shape
        (48, 64, 3)
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITTEN_SUFFIXES:
        raise FoldcamError(f"{path} has no image suffix: use one of {', '.join(WRITTEN_SUFFIXES)}.")
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


def image_bytes(path: Path | str) -> bytes:
    """The bytes of a photograph's file, which is opened once, whatever is done with them."""
    path = Path(path)
    with _enough_memory_for(path):
        return _read_bytes(path)


@contextmanager
def _enough_memory_for(path: Path) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise FoldcamError(
            f"{path} needs more memory to decode than this machine or its limit allows."
        ) from None


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


def decode_heic(data: bytes, path: Path) -> Image:
    """Decode the primary picture of a HEIC file, as a viewer shows it."""
    try:
        from pi_heif import open_heif
    except ImportError:
        raise FoldcamError(
            f"{path} is a HEIC picture, which needs one more package: pip install 'foldcam[heic]'."
        ) from None
    try:
        picture = open_heif(io.BytesIO(data), convert_hdr_to_8bit=True)
        # Copied while the file is open: the picture's own memory goes with it.
        decoded = np.array(picture, copy=True)
        width, height = picture.size
    except MemoryError:
        raise
    except Exception as error:
        # The library raises errors of many classes for damage, EOFError and SyntaxError among
        # them, and what it says may have several lines.
        why = printable(" ".join(str(error).split()))
        raise FoldcamError(
            f"{path} is truncated or damaged: it cannot be decoded as HEIC ({why})."
        ) from None
    decoded = decoded[:height, :width]
    if decoded.ndim == 2:
        decoded = decoded[..., None]
    if decoded.dtype != np.uint8 or decoded.ndim != 3 or decoded.shape[2] not in (1, 2, 3, 4):
        raise FoldcamError(f"{path} is a HEIC picture of a kind that foldcam does not read.")
    colours = decoded[..., :3] if decoded.shape[2] >= 3 else decoded[..., :1].repeat(3, axis=2)
    return np.ascontiguousarray(colours)
