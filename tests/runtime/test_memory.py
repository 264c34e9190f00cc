"""Freed memory is used again instead of being cleared anew by the kernel."""

from __future__ import annotations

import subprocess
import sys

import pytest

_ROUNDS = """
import resource, sys
import numpy as np
from foldcam.runtime.system.memory import keep_freed_memory

taken = keep_freed_memory() if sys.argv[1] == "keep" else True
np.ones(1 << 22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(1 << 22)
print(taken, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str, child_environment) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _ROUNDS, mode],
        capture_output=True, text=True, check=True,
        # One size of pages, so that faults can be counted.
        env=child_environment(NUMPY_MADVISE_HUGEPAGE="0"),
    )  # fmt: skip
    taken, faults = done.stdout.split()
    if taken != "True":
        pytest.skip("this C library has no mallopt")
    return int(faults)


def test_freed_blocks_are_kept(child_environment):
    assert page_faults("keep", child_environment) * 10 < page_faults("leave", child_environment)
