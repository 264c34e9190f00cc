"""What every test may ask for: the photographs, and an NVIDIA GPU."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

import hypothesis
import pytest

# A machine that is busy is no bug.
hypothesis.settings.register_profile("foldcam", deadline=None)
hypothesis.settings.load_profile("foldcam")

ROOT = Path(__file__).resolve().parent.parent
DATA_FIXTURES = {"data_root", "cub_root", "houses_root"}


@cache
def gpus() -> int:
    """Count the CUDA devices; the driver is asked, so that a Jetson counts as well."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what reads the photographs `data`, so that `-m "not data"` leaves it out."""
    for item in items:
        if DATA_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.data)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `gpu` where there is none."""
    if item.get_closest_marker("gpu") and not gpus():
        pytest.skip("needs an NVIDIA GPU, and the CUDA driver reports none")


def _folder(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"needs {path.name}: set FOLDCAM_DATA to the folder that contains it")
    return path


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of data sets: FOLDCAM_DATA, or ../shared/data beside the checkout."""
    folder = os.environ.get("FOLDCAM_DATA") or ROOT.parent / "shared" / "data"
    return Path(folder)


@pytest.fixture(scope="session")
def cub_root(data_root: Path) -> Path:
    """A CUB-200-2011 folder: images.txt, bounding_boxes.txt, train_test_split.txt, images/."""
    return _folder(data_root / "CUB_200_2011")


@pytest.fixture(scope="session")
def houses_root(data_root: Path) -> Path:
    """Photographs of houses with prices: houses.csv, images/."""
    return _folder(data_root / "houses")
