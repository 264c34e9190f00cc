"""A model repository for Triton Inference Server: its layout, and `config.pbtxt`.

The fields are those of `ModelConfig` in `model_config.proto` of the repository
triton-inference-server/common, written in protobuf's text format.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from foldcam.runtime.contract.onnx_file import TensorInfo, read_contract
from foldcam.runtime.contract.schema import EMBEDDING, IMAGE, Contract
from foldcam.runtime.contract.tensors import expected_tensors, further_inputs
from foldcam.runtime.engine.deploy.folder import (
    LABELS,
    checked_name,
    copy_model,
    whole_folder,
    write_labels,
    write_readme,
)
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import sha256_of_file
from foldcam.runtime.system.text import printable

Platform = Literal["onnx", "tensorrt"]
PLATFORMS: tuple[Platform, ...] = get_args(Platform)
SHA256 = "foldcam_sha256"
"""The parameter by which a client knows which file is served."""
_BACKENDS: dict[Platform, str] = {"onnx": "onnxruntime", "tensorrt": "tensorrt"}
_TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8", "int32": "TYPE_INT32"}


@dataclass(frozen=True)
class TritonOptions:
    """How the server runs the model.

    Attributes:
        platform: `onnx` runs the file itself; `tensorrt` an engine that is built from it on the
            server's machine.
        name: of the model; None takes the file's.
        delay_us: microseconds that a picture waits for others to share a pass with.
    """

    platform: Platform = "onnx"
    name: str | None = None
    max_batch: int = 8
    delay_us: int = 500


def write_repository(model: Path, repository: Path, options: TritonOptions) -> Path:
    """Write the model into a repository, beside others that are there.

    Args:
        repository: the folder that `tritonserver --model-repository` is given.

    Raises:
        FoldcamError: it is no folded model, its bank is an input, its name cannot be served, or
            the folder cannot be written.
    """
    contract = read_contract(model)
    if contract.bank_input is not None:
        raise FoldcamError(
            f"{model}: Triton batches every input of a model, and the bank of this one is an "
            "input without a batch: fold it without --bank-input."
        )
    name = checked_name(options.name or model.stem)
    digest = sha256_of_file(model)
    with whole_folder(repository / name) as folder:
        copy_model(model, folder / "1" / "model.onnx")
        config = config_text(contract, name, digest, options)
        (folder / "config.pbtxt").write_text(config, encoding="ascii")
        write_labels(folder, contract)
        write_readme(folder, _readme(contract, name, digest, options))
    return repository / name


def config_text(contract: Contract, name: str, digest: str, options: TritonOptions) -> str:
    """`config.pbtxt` of a model."""
    image, outputs = expected_tensors(contract)
    inputs = [image, *further_inputs(contract)]
    most = options.max_batch
    lines = [
        f"name: {quoted(name)}",
        f"backend: {quoted(_BACKENDS[options.platform])}",
        f"max_batch_size: {most}",
        *(_tensor("input", each) for each in inputs),
        *(_tensor("output", each, _label_file(contract, each)) for each in outputs),
        f"dynamic_batching {{ max_queue_delay_microseconds: {options.delay_us} }}",
        *(_warmup(inputs, size) for size in sorted({1, most})),
        f"parameters {{ key: {quoted(SHA256)} value {{ string_value: {quoted(digest)} }} }}",
    ]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A string of protobuf's text format: its UTF-8 bytes, what is not printable in octal."""
    return '"' + "".join(_escaped(byte) for byte in text.encode()) + '"'


def _escaped(byte: int) -> str:
    if chr(byte) in '"\\':
        return f"\\{chr(byte)}"
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}"


def _tensor(kind: str, tensor: TensorInfo, label_file: str = "") -> str:
    sizes = tensor.shape[1:]
    # A tensor of one number per image has no further size, and `dims` needs one.
    dims = ", ".join(map(str, sizes)) if sizes else "1"
    reshape = "" if sizes else " reshape { shape: [ ] }"
    labels = f" label_filename: {quoted(label_file)}" if label_file else ""
    return (
        f"{kind} {{ name: {quoted(tensor.name)} data_type: {_TYPES[tensor.dtype]} "
        f"dims: [ {dims} ]{reshape}{labels} }}"
    )


def _label_file(contract: Contract, output: TensorInfo) -> str:
    """Only a classifier's own scores are one number per label, in the labels' order."""
    scores = contract.scores is not None and output.name == EMBEDDING
    return LABELS if scores and contract.labels else ""


def _warmup(inputs: list[TensorInfo], batch: int) -> str:
    """Passes before the server says that it is ready: the first ones are slow."""
    given = " ".join(
        f"inputs {{ key: {quoted(each.name)} value {{ data_type: {_TYPES[each.dtype]} "
        f"dims: [ {', '.join(map(str, each.shape[1:]))} ] "
        f"{'random_data' if each.name == IMAGE else 'zero_data'}: true }} }}"
        for each in inputs
    )
    return f"model_warmup {{ name: {quoted(f'batch {batch}')} batch_size: {batch} {given} }}"


def build_command(contract: Contract, name: str, options: TritonOptions) -> str:
    """The command that makes the engine, in the server's own container."""
    inputs = [expected_tensors(contract)[0], *further_inputs(contract)]

    def shapes(batch: int) -> str:
        return ",".join(
            f"{each.name}:{'x'.join(map(str, (batch, *each.shape[1:])))}" for each in inputs
        )

    folder = f"/models/{name}/1"
    parts = [
        f"trtexec --onnx={folder}/model.onnx --saveEngine={folder}/model.plan",
        f"--minShapes={shapes(1)} --optShapes={shapes(options.max_batch)}",
        f"--maxShapes={shapes(options.max_batch)} --noTF32{_precision(contract)}",
    ]
    return " \\\n  ".join(parts)


def _precision(contract: Contract) -> str:
    """What makes TensorRT keep to the types of the file, as far as its versions up to 10 can."""
    if contract.precision == "fp16" or contract.calibration is not None:
        return " --stronglyTyped"
    return ""


def _readme(contract: Contract, name: str, digest: str, options: TritonOptions) -> str:
    container = "nvcr.io/nvidia/tritonserver:YY.MM-py3"
    steps = ""
    if options.platform == "tensorrt":
        older = (
            "\n\nTensorRT before 10.12 and after 10 does not take `--stronglyTyped`: give `--fp16` "
            "(and `--int8` for a quantized model) before, and nothing after."
            if _precision(contract)
            else ""
        )
        steps = (
            "An engine fits one TensorRT and one kind of GPU, so it is built where it runs, in the "
            f'container of the server:\n\n```sh\ndocker run --rm --gpus all -v "$PWD":/models '
            f"{container} \\\n  {build_command(contract, name, options)}\n```{older}\n\n"
        )
    labels = (
        f"`{LABELS}` has one line per row of the bank: line n + 1 is the label of the number n in "
        "the output `neighbor`.\n\n"
        if contract.labels
        else ""
    )
    return (
        f"# {name}\n\n{printable(contract.summary())}.\n\n"
        f"{steps}"
        "Run the server from the folder that this one lies in:\n\n"
        f'```sh\ndocker run --rm --gpus all -p 8000:8000 -v "$PWD":/models {container} \\\n'
        "  tritonserver --model-repository=/models\n```\n\n"
        f"{labels}"
        "Cameras are run against it with the file that this folder was made from:\n\n"
        f"```sh\nruntime run MODEL.onnx --camera 0 --server http://HOST:8000/{name}\n```\n\n"
        f"The SHA-256 of that file is {digest}.\n"
    )
