"""HEIC, which no OpenCV reads: by the extra `heic`, where it is installed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from foldcam.runtime.images.preprocess import Image
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable


def decode_heic(data: bytes, path: Path) -> Image:
    """Decode the primary picture of a HEIC file, as a viewer shows it.

    The container's own rotation is applied, ten bits become eight, alpha is dropped.

    Returns:
        `uint8 [H, W, 3]` RGB.
    """
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
    except (ValueError, RuntimeError, OSError, SyntaxError, IndexError, TypeError) as error:
        # What the library says may have several lines.
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
