"""What is known of an engine: the JSON document beside its plan.

A plan says nothing of itself that can be read without running it, so everything that
decides whether it fits is written here when it is built.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, to_builtins

from foldcam.runtime.contract.onnx_file import TensorInfo
from foldcam.runtime.contract.reading import parse_contract
from foldcam.runtime.contract.schema import MAX_METADATA_BYTES, Contract
from foldcam.runtime.engine.device import Host
from foldcam.runtime.engine.flavours import FlavourName, title_of, wanted_for
from foldcam.runtime.engine.options import BuildOptions, Profile
from foldcam.runtime.system.documents import KeyProblem, Natural, Versioned, read_document
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import refuse_special
from foldcam.runtime.system.strict_json import parse_json

SCHEMA_VERSION = 1
# Escaped, a character takes up to three times the bytes that it has in UTF-8.
MAX_BYTES = 3 * MAX_METADATA_BYTES + (1 << 20)

EnginePrecision = Literal["fp32", "fp16", "int8"]
Typing = Literal["strong", "weak"]
_Tensors = Annotated[tuple[TensorInfo, ...], Meta(max_length=64)]


@dataclass(frozen=True)
class FileRecord:
    """A file as it was: its name without the folder, its size, the SHA-256 of its bytes."""

    name: str
    bytes: Natural
    sha256: str

    def __post_init__(self) -> None:
        if not self.name or Path(self.name).name != self.name or "\0" in self.name:
            raise KeyProblem("name", "is not the plain name of a file")


@dataclass(frozen=True)
class Target:
    """The GPUs that a plan was compiled for.

    Attributes:
        device: name of the GPU that was there; empty without one.
        compute_capabilities: such as `("8.7",)`.
        and_later: whether a capability above all of these serves as well.
    """

    device: str
    compute_capabilities: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}\Z")], ...], Meta(max_length=64)
    ]
    and_later: bool

    def serves(self, compute_capability: str) -> bool:
        """Whether a plan for this target runs on a GPU of that capability."""
        if compute_capability in self.compute_capabilities:
            return True
        known = [_ordered(each) for each in self.compute_capabilities]
        return self.and_later and bool(known) and _ordered(compute_capability) > max(known)

    def __str__(self) -> str:
        listed = ", ".join(self.compute_capabilities)
        return f"{listed} and later" if self.and_later else listed


@dataclass(frozen=True)
class Manifest:
    """Everything that must be known of an engine before it is loaded.

    Attributes:
        plan: the engine file.
        model: the folded ONNX file that it was built from.
        flavour, version: the TensorRT that built it.
        target: the GPUs that it was built for.
        platform: the machine that built it.
        precision: the least precise type that it computes in.
        typing: whether its types are the file's (`strong`) or the builder's choice within
            what the file allows (`weak`).
        options: as it was built.
        profiles: batch sizes, one entry per set of kernels.
        inputs, outputs: the tensors; a dynamic size is a string.
        dla_fallback: layers that were asked onto the DLA and run on the GPU.
        build_seconds: how long building took.
        foldcam: the version that built it.
        metadata: the model's `foldcam` document.
    """

    plan: FileRecord
    model: FileRecord
    flavour: FlavourName
    version: str
    target: Target
    platform: Host
    precision: EnginePrecision
    typing: Typing
    options: BuildOptions
    inputs: _Tensors
    outputs: _Tensors
    dla_fallback: Annotated[tuple[str, ...], Meta(max_length=1 << 16)]
    build_seconds: Annotated[float, Meta(ge=0, le=1e300)]
    foldcam: str
    metadata: dict[str, Any]

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """Batch sizes, one entry per set of kernels, in the plan's order."""
        return self.options.profiles

    @property
    def title(self) -> str:
        """The TensorRT that built it, to read."""
        return title_of(self.flavour, self.version)

    def contract(self, where: str) -> Contract:
        """What the model promises.

        Raises:
            FoldcamError: the metadata are malformed; the message begins with `where`.
        """
        return parse_contract(_compact(self.metadata), where)

    def rebuild(self, model: Path, engine: Path) -> str:
        """The command that builds this engine again."""
        return self.options.command(model, wanted_for(self.flavour), engine)

    def to_json(self) -> str:
        """The document, deterministic for equal manifests."""
        document: dict[str, Any] = to_builtins(self)
        document |= {
            "schema_version": SCHEMA_VERSION, "metadata_sha256": _sha256_of(self.metadata),
        }  # fmt: skip
        # What the builder chooses by itself is 0, and the GPU -1.
        options = document["options"]
        options["workspace"] = options["workspace"] or 0
        options["dla_core"] = -1 if options["dla_core"] is None else options["dla_core"]
        return json.dumps(document, indent=1, sort_keys=True) + "\n"


def manifest_path(engine: Path) -> Path:
    """`birds.engine.json` for `birds.engine`."""
    return engine.with_name(f"{engine.name}.json")


def tensor_record(tensor: TensorInfo) -> dict[str, Any]:
    """A tensor as JSON values."""
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}


def read_manifest(engine: Path) -> Manifest:
    """Read the document beside an engine.

    Raises:
        FoldcamError: it is missing, unreadable, of another schema version, or a value is
            missing or wrong; the message says how to build the engine again.
    """
    path = manifest_path(engine)
    remedy = f"build the engine again with: runtime build MODEL.onnx --out {engine}"
    refuse_special(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise FoldcamError(
            f"{engine} has no manifest ({path.name} is not beside it), so nothing is known of "
            f"it: {remedy}"
        ) from None
    except OSError as error:
        raise FoldcamError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(content) > MAX_BYTES:
        raise FoldcamError(f"{path} is larger than any manifest: {remedy}")
    try:
        document = parse_json(content.decode("utf-8"))
    except ValueError:
        raise FoldcamError(f"{path} is not JSON, or it is damaged: {remedy}") from None
    version = read_document(Versioned, document, str(path)).schema_version
    if version != SCHEMA_VERSION:
        raise FoldcamError(
            f"{path} has schema version {version} and this foldcam reads {SCHEMA_VERSION}: {remedy}"
        )
    manifest = read_document(Manifest, document, str(path), whole=("options",))
    if document.get("metadata_sha256") != _sha256_of(manifest.metadata):
        raise FoldcamError(
            f"{path}: the model's metadata in it were changed after the engine was built: {remedy}"
        )
    chosen = manifest.options
    core = None if chosen.dla_core == -1 else chosen.dla_core
    options = replace(chosen, workspace=chosen.workspace or None, dla_core=core)
    return replace(manifest, options=options)


def _ordered(compute_capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in compute_capability.split("."))


def _compact(metadata: dict[str, Any]) -> str:
    return json.dumps(metadata, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _sha256_of(metadata: dict[str, Any]) -> str:
    # A label may hold what a file name of another encoding leaves: half a surrogate pair.
    return hashlib.sha256(_compact(metadata).encode("utf-8", "surrogatepass")).hexdigest()
