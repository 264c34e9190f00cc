"""CUDA through cuda-python or pycuda; nothing outside this package knows either.

cuda-python goes first although pycuda is the older practice on a Jetson: only it has
CUDA graphs. Where it is missing, or does not fit the driver, pycuda serves alone.
"""

from __future__ import annotations

from foldcam.runtime.backends.cuda.bindings import CudaBindings, CudaDevice, CudaError
from foldcam.runtime.backends.cuda.cuda_python import load_cuda_python
from foldcam.runtime.backends.cuda.pycuda import load_pycuda
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable, shorten

__all__ = ["CudaBindings", "CudaDevice", "CudaError", "find_cuda"]


def find_cuda() -> CudaBindings:
    """The first CUDA library that is installed and reaches a GPU."""
    reasons: list[str] = []
    for load in (load_cuda_python, load_pycuda):
        try:
            found = load()
            with found.current():
                found.device()
        except ModuleNotFoundError:
            continue
        except CudaError as error:
            reasons.append(f"{error.call} says {error.name}")
        except Exception as error:
            # An installed binding may fail in many ways of its own where no driver is.
            first = (str(error) or type(error).__name__).splitlines()[0]
            reasons.append(printable(shorten(first, 200)))
        else:
            return found
    if reasons:
        raise FoldcamError(
            f"No NVIDIA GPU can be used here ({'; '.join(reasons)}): see `nvidia-smi` or, on a "
            "Jetson, /etc/nv_tegra_release, and install a CUDA library that is not newer than "
            "the driver."
        )
    raise FoldcamError(
        "TensorRT needs a CUDA library for Python and none is installed: pip install "
        "'cuda-bindings==12.*' (JetPack 6) or 'cuda-bindings==13.*' (JetPack 7, CUDA 13 drivers)."
    )
