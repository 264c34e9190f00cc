"""CUDA's runtime on the processor's memory: what is started is done at once."""

# ruff: noqa: N802, N816 (the names are those of CUDA)

import ctypes
from types import SimpleNamespace

cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
_BYTES = 8 << 30
_blocks = {}
_graphs = {}
_recording = None


def put(work):
    """Do it now, or keep it for the graph that is being captured."""
    if _recording is None:
        work()
    else:
        _recording.append(work)


def _allocate(size):
    block = (ctypes.c_uint8 * size)()
    _blocks[ctypes.addressof(block)] = block
    return 0, ctypes.addressof(block)


def cudaRuntimeGetVersion():
    return 0, 12060


def cudaGetErrorString(error):
    return 0, b"it failed"


def cudaGetLastError():
    return (0,)


def cudaGetDeviceProperties(device):
    return 0, SimpleNamespace(name=b"Pretended GPU", major=8, minor=7)


def cudaMemGetInfo():
    return 0, _BYTES, _BYTES


def cudaStreamCreateWithFlags(flags):
    return 0, 1


def cudaStreamDestroy(stream):
    return (0,)


cudaStreamSynchronize = cudaGraphDestroy = cudaStreamDestroy


def cudaHostAlloc(size, flags):
    return _allocate(size)


def cudaMalloc(size):
    return _allocate(size)


def cudaFree(address):
    _blocks.pop(address, None)
    return (0,)


cudaFreeHost = cudaFree


def cudaMemcpyAsync(target, source, size, kind, stream):
    put(lambda: ctypes.memmove(target, source, size))
    return (0,)


def cudaStreamBeginCapture(stream, mode):
    global _recording
    _recording = []
    return (0,)


def cudaStreamEndCapture(stream):
    global _recording
    work, _recording = _recording, None
    return _keep(work)


def cudaGraphInstantiateWithFlags(graph, flags):
    return _keep(_graphs[graph])


def _keep(work):
    _graphs[len(_graphs) + 1] = work
    return 0, len(_graphs)


def cudaGraphExecDestroy(graph):
    _graphs[graph] = None
    return (0,)


def cudaGraphLaunch(graph, stream):
    for work in _graphs[graph]:
        work()
    return (0,)
