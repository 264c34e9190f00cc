"""Where an embedding network runs on the workstation: on the processor, or on an NVIDIA GPU.

Its trunk runs in ONNX Runtime. Only a network whose embedding is no function of one sum over
positions runs in torch. Each of the two libraries has to be built for CUDA.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from foldcam.runtime.engine.device import find_gpu
from foldcam.runtime.system.errors import FoldcamError

if TYPE_CHECKING:
    import torch

DeviceChoice = Literal["auto", "cpu", "cuda"]
DEVICE_CHOICES: tuple[DeviceChoice, ...] = get_args(DeviceChoice)

Provider = Literal["cpu", "cuda"]

_CPU_PROVIDER = "CPUExecutionProvider"
_CUDA_PROVIDER = "CUDAExecutionProvider"
# Its default computes float32 with 10 bits of mantissa, of which the embedding would show.
_CUDA_OPTIONS = {"device_id": "0", "use_tf32": "0"}
_FATAL = 4
_INSTALL = "pip install onnxruntime-gpu in place of onnxruntime (x86-64 only; uninstall that first)"


@dataclass(frozen=True)
class Device:
    """What a network runs on, chosen once per command and handed to whatever runs it.

    Attributes:
        gpu: the name of the GPU on which ONNX Runtime computes; empty for the processor.
        wanted: what was asked for: with `cuda` a network that has to run in torch is refused
            where torch has no CUDA.
        note: what the user should know about the choice, one sentence; empty for nothing.
    """

    gpu: str = ""
    wanted: DeviceChoice = "cpu"
    note: str = ""

    @property
    def provider(self) -> Provider:
        """The same choice as `--provider` of folded models names it."""
        return "cuda" if self.gpu else "cpu"

    @property
    def text(self) -> str:
        """`cpu`, or `cuda: NVIDIA H200`."""
        return f"cuda: {self.gpu}" if self.gpu else "cpu"

    def providers(self) -> list[str | tuple[str, dict[str, str]]]:
        """For `onnxruntime.InferenceSession`, in order of preference."""
        if not self.gpu:
            return [_CPU_PROVIDER]
        return [(_CUDA_PROVIDER, dict(_CUDA_OPTIONS)), _CPU_PROVIDER]

    def for_torch(self) -> torch.device:
        """The same device for torch, or the processor where torch has no CUDA."""
        import torch

        if self.wanted == "cpu":
            return torch.device("cpu")
        if torch.cuda.is_available():
            return torch.device("cuda")
        if self.wanted == "cuda":
            raise FoldcamError(
                "--device cuda: this network runs in torch, which finds no CUDA device here: "
                "install a torch that is built for CUDA, or use --device cpu."
            )
        return torch.device("cpu")


CPU = Device()


def choose_device(wanted: DeviceChoice) -> Device:
    """What a command's networks run on."""
    if wanted == "cpu":
        return CPU
    gpu = find_gpu()
    if gpu is None:
        if wanted == "cuda":
            raise FoldcamError(
                "--device cuda: the CUDA driver reports no GPU here: use --device cpu."
            )
        return Device(wanted=wanted)
    missing = _missing()
    if missing and wanted == "cuda":
        raise FoldcamError(f"--device cuda: {missing}, or use --device cpu.")
    if missing:
        return Device(wanted=wanted, note=f"{gpu.name} is not used: {missing}.")
    return Device(gpu.name, wanted, f"embedding on cuda: {gpu.name}")


def _missing() -> str:
    """What keeps ONNX Runtime from the GPU and how to change it, a clause; empty for nothing."""
    try:
        import onnxruntime
    except ImportError:
        return f"onnxruntime is not installed: {_INSTALL}"
    if _CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return f"the installed onnxruntime has no CUDA: {_INSTALL}"
    from onnx import TensorProto, helper

    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "trial", [given], [made])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    providers = Device("a GPU").providers()
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=providers
        )
        started: list[str] = session.get_providers()
    except Exception:
        # A C++ library, whose exceptions have no type in common.
        started = []
    if _CUDA_PROVIDER in started:
        return ""
    return (
        "onnxruntime has CUDA and cannot start it: install the driver, the CUDA and the cuDNN "
        f"that onnxruntime {onnxruntime.__version__} needs"
    )


@contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions of torch in float32 as on the processor, and not in TF32, its default."""
    import torch

    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
