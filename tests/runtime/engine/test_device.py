"""The machine is described by its driver, whose every refusal is survived."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from foldcam.runtime.engine.device import find_gpu, find_host

ATTRIBUTES = {18: 1, 75: 8, 76: 7}


class Driver(SimpleNamespace):
    """The few calls of libcuda that are used, and which of them fail."""

    def __init__(self, fails: str = "", attributes: dict[int, int] = ATTRIBUTES) -> None:
        super().__init__(calls=[])
        for name in (
            "cuInit", "cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute",
            "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2", "cuMemGetInfo_v2",
            "cuCtxPopCurrent_v2", "cuDevicePrimaryCtxRelease_v2",
        ):  # fmt: skip
            setattr(self, name, self._call(name, fails, attributes))

    def _call(self, name, fails, attributes):
        def call(*arguments):
            self.calls.append(name)
            if name == fails:
                return 100
            if name == "cuDeviceGetName":
                arguments[0].value = b"Orin"
            if name == "cuDeviceGetAttribute":
                arguments[0]._obj.value = attributes[arguments[1]]
            if name == "cuMemGetInfo_v2":
                arguments[0]._obj.value = 1 << 30
            return 0

        return call


@pytest.fixture
def memory(tmp_path):
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:  8000000 kB\nMemAvailable:    4194304 kB\n")
    return path


def test_a_jetson_counts_memory_that_the_kernel_would_give_back(memory):
    driver = Driver()
    gpu = find_gpu(lambda name: driver, memory)
    assert gpu is not None
    assert (gpu.name, gpu.compute_capability, gpu.integrated) == ("Orin", "8.7", True)
    assert gpu.free_bytes == 4 << 30
    # The context was borrowed for one question.
    assert driver.calls.count("cuDevicePrimaryCtxRelease_v2") == 1
    assert driver.calls.index("cuCtxPopCurrent_v2") < driver.calls.index(
        "cuDevicePrimaryCtxRelease_v2"
    )


def test_a_card_counts_its_own_memory(memory):
    driver = Driver(attributes={18: 0, 75: 12, 76: 0})
    gpu = find_gpu(lambda name: driver, memory)
    assert gpu is not None
    assert (gpu.compute_capability, gpu.free_bytes) == ("12.0", 1 << 30)


@pytest.mark.parametrize("fails", ["cuInit", "cuDeviceGet", "cuDeviceGetAttribute"])
def test_a_driver_that_does_not_start_is_no_gpu(fails, memory):
    assert find_gpu(lambda name: Driver(fails), memory) is None


@pytest.mark.parametrize(
    "fails", ["cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2", "cuMemGetInfo_v2"]
)
def test_memory_that_cannot_be_asked_is_unknown(fails, memory):
    driver = Driver(fails)
    gpu = find_gpu(lambda name: driver, memory)
    assert gpu is not None
    assert gpu.free_bytes is None
    released = fails != "cuDevicePrimaryCtxRetain"
    assert ("cuDevicePrimaryCtxRelease_v2" in driver.calls) == released


def test_no_driver_is_no_gpu(memory):
    def load(name):
        raise OSError("libcuda.so.1: cannot open shared object file")

    assert find_gpu(load, memory) is None


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "36.4.3"),
        ("# R38 (release), REVISION: 2.0, GCID: 1", "38.2.0"),
        ("something else", "unknown"),
        (None, ""),
    ],
)
def test_the_release_of_jetson_linux(text, release, tmp_path):
    path = tmp_path / "nv_tegra_release"
    if text is not None:
        path.write_text(text)
    assert find_host(path).l4t == release
