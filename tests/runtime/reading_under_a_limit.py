"""Reads the pictures that are named on standard input, one a line, in 1 GiB of memory.

One line of answer each: `read H W`, or `refused SENTENCE`. Run by tests as a program.
"""

from __future__ import annotations

import resource
import sys

from foldcam.runtime.images.files import read_image
from foldcam.runtime.sources import open_source
from foldcam.runtime.system.errors import FoldcamError

LIMIT = 1 << 30

resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
for line in sys.stdin:
    how, _, path = line.rstrip("\n").partition(" ")
    try:
        if how == "picture":
            shape = read_image(path).shape
        else:
            with open_source(file=path) as source:
                shape = next(frame.image.shape for frame in source)
        print(f"read {shape[0]} {shape[1]}", flush=True)
    except FoldcamError as error:
        print(f"refused {error}", flush=True)
    except StopIteration:
        print("refused nothing in it", flush=True)
