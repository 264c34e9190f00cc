"""The driver of a GPU that is not there: what `runtime.engine.device` asks of libcuda."""

# ruff: noqa: N802 (the names are those of CUDA)

import ctypes

_NAME, _CAPABILITY, _BYTES = b"Pretended GPU", (8, 7), 8 << 30
_ATTRIBUTES = {18: 0, 75: _CAPABILITY[0], 76: _CAPABILITY[1]}
_open = ctypes.CDLL


class _Driver:
    def cuDeviceGetName(self, name, length, device):
        name.value = _NAME
        return 0

    def cuDeviceGetAttribute(self, value, what, device):
        value._obj.value = _ATTRIBUTES[what]
        return 0

    def cuMemGetInfo_v2(self, free, total):
        free._obj.value = total._obj.value = _BYTES
        return 0

    def __getattr__(self, name):
        return lambda *_: 0


class _CDLL(_open):
    """A class, because others derive from it."""

    def __new__(cls, name=None, *arguments, **options):
        return _Driver() if name == "libcuda.so.1" else super().__new__(cls)


ctypes.CDLL = _CDLL
