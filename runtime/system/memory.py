"""How this process's memory is handed back to the operating system."""

from __future__ import annotations

import ctypes
import sys

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST = 1 << 30


def keep_freed_memory() -> bool:
    """Keep freed blocks of up to 1 GiB for the next use, instead of handing them back.

    torch frees a network's activations after every batch and asks for the same sizes again.
    glibc hands such large blocks back at once, so that the kernel clears every page again: that
    was a quarter of the processor time of an EfficientNet on 256 x 256 images. In exchange the
    process stays as large as it once was.

    Returns:
        Whether the C library took it; one other than glibc has no such setting.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(
        mallopt(setting, _LARGEST) == 1 for setting in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD)
    )
