"""What is known of an engine: the JSON document beside its plan.

A plan says nothing of itself that can be read without running it, so everything that
decides whether it fits is written here when it is built.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from foldcam.runtime.contract.fields import Fields
from foldcam.runtime.contract.onnx_file import TensorInfo
from foldcam.runtime.contract.reading import parse_contract
from foldcam.runtime.contract.schema import MAX_METADATA_BYTES, Contract
from foldcam.runtime.engine.device import Host
from foldcam.runtime.engine.flavours import FLAVOUR_NAMES, FlavourName, title_of, wanted_for
from foldcam.runtime.engine.options import MAX_BATCH, BuildOptions, Profile
from foldcam.runtime.errors import FoldcamError
from foldcam.runtime.system.files import refuse_special

SCHEMA_VERSION = 1
# Escaped, a character takes up to three times the bytes that it has in UTF-8.
MAX_BYTES = 3 * MAX_METADATA_BYTES + (1 << 20)

EnginePrecision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[EnginePrecision, ...] = get_args(EnginePrecision)
Typing = Literal["strong", "weak"]
TYPINGS: tuple[Typing, ...] = get_args(Typing)

_MAX_TENSORS = 64
_MAX_RANK = 8
_MAX_PROFILES = 64
_MAX_NAMES = 1 << 16
_MAX_DIGITS = 1000


@dataclass(frozen=True)
class FileRecord:
    """A file as it was: its name without the folder, its size, the SHA-256 of its bytes."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Target:
    """The GPUs that a plan was compiled for.

    Attributes:
        device: name of the GPU that was there; empty without one.
        compute_capabilities: such as `("8.7",)`.
        and_later: whether a capability above all of these serves as well.
    """

    device: str
    compute_capabilities: tuple[str, ...]
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
        host: the machine that built it.
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
    host: Host
    precision: EnginePrecision
    typing: Typing
    options: BuildOptions
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    dla_fallback: tuple[str, ...]
    build_seconds: float
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
        document = {
            "schema_version": SCHEMA_VERSION,
            "plan": asdict(self.plan),
            "model": asdict(self.model),
            "flavour": self.flavour,
            "version": self.version,
            "target": {
                "device": self.target.device,
                "compute_capabilities": list(self.target.compute_capabilities),
                "and_later": self.target.and_later,
            },
            "platform": asdict(self.host),
            "precision": self.precision,
            "typing": self.typing,
            "options": {
                "profiles": [list(vars(profile).values()) for profile in self.profiles],
                "workspace": self.options.workspace or 0,
                "dla_core": -1 if self.options.dla_core is None else self.options.dla_core,
                "compute_capabilities": list(self.options.compute_capabilities),
                "timing_cache": self.options.timing_cache,
            },
            "inputs": [tensor_record(tensor) for tensor in self.inputs],
            "outputs": [tensor_record(tensor) for tensor in self.outputs],
            "dla_fallback": list(self.dla_fallback),
            "build_seconds": self.build_seconds,
            "foldcam": self.foldcam,
            "metadata_sha256": _sha256_of(self.metadata),
            "metadata": self.metadata,
        }
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
        document = json.loads(content.decode("utf-8"), parse_int=_integer)
    except (ValueError, RecursionError):
        raise FoldcamError(f"{path} is not JSON, or it is damaged: {remedy}") from None
    root = Fields(document, where=str(path))
    version = root.integer("schema_version")
    if version != SCHEMA_VERSION:
        raise FoldcamError(
            f"{path} has schema version {version} and this foldcam reads {SCHEMA_VERSION}: {remedy}"
        )
    manifest = _parse(root, document)
    if root.text("metadata_sha256") != _sha256_of(manifest.metadata):
        raise FoldcamError(
            f"{path}: the model's metadata in it were changed after the engine was built: {remedy}"
        )
    return manifest


def _parse(root: Fields, document: dict[str, Any]) -> Manifest:
    root.section("metadata")
    platform = root.section("platform")
    seconds = root.number("build_seconds")
    if seconds < 0:
        root.fail("build_seconds", f"is {seconds:g}, below zero")
    flavour: FlavourName = root.choice("flavour", FLAVOUR_NAMES)
    precision: EnginePrecision = root.choice("precision", PRECISIONS)
    typing: Typing = root.choice("typing", TYPINGS)
    return Manifest(
        plan=_file(root.section("plan")),
        model=_file(root.section("model")),
        flavour=flavour,
        version=root.text("version"),
        target=_target(root.section("target")),
        host=Host(platform.text("machine"), platform.text("system"), platform.text("l4t")),
        precision=precision,
        typing=typing,
        options=_options(root.section("options")),
        inputs=_tensors(root, "inputs"),
        outputs=_tensors(root, "outputs"),
        dla_fallback=root.strings("dla_fallback", _MAX_NAMES),
        build_seconds=seconds,
        foldcam=root.text("foldcam"),
        metadata=document["metadata"],
    )


def _file(fields: Fields) -> FileRecord:
    name = fields.text("name")
    if not name or Path(name).name != name or "\0" in name:
        fields.fail("name", "is not the plain name of a file")
    return FileRecord(name, fields.integer("bytes"), fields.text("sha256"))


def _target(fields: Fields) -> Target:
    capabilities = fields.strings("compute_capabilities", _MAX_PROFILES)
    for each in capabilities:
        if not re.fullmatch(r"[0-9]{1,3}\.[0-9]{1,3}", each):
            fields.fail("compute_capabilities", f"has {each[:80]!r}, no compute capability")
    return Target(fields.text("device"), capabilities, fields.boolean("and_later"))


def _options(fields: Fields) -> BuildOptions:
    profiles = tuple(
        _profile(fields, sizes) for sizes in fields.integer_lists("profiles", _MAX_PROFILES, 3)
    )
    if not profiles:
        fields.fail("profiles", "are empty")
    workspace = fields.integer("workspace")
    dla_core = fields.integer("dla_core", low=-1, high=15)
    return BuildOptions(
        profiles=profiles,
        workspace=workspace or None,
        dla_core=None if dla_core < 0 else dla_core,
        compute_capabilities=fields.strings("compute_capabilities", _MAX_PROFILES),
        timing_cache=fields.boolean("timing_cache"),
    )


def _profile(fields: Fields, sizes: list[int]) -> Profile:
    low, best, high = sizes
    if not 1 <= low <= best <= high <= MAX_BATCH:
        fields.fail("profiles", f"has the batch sizes {low}, {best}, {high}, out of order or range")
    return Profile(low, best, high)


def _tensors(root: Fields, key: str) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(each.text("name"), each.text("dtype"), each.shape("shape", _MAX_RANK))
        for each in root.sections(key, _MAX_TENSORS)
    )


def _ordered(compute_capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in compute_capability.split("."))


def _compact(metadata: dict[str, Any]) -> str:
    return json.dumps(metadata, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _sha256_of(metadata: dict[str, Any]) -> str:
    # A label may hold what a file name of another encoding leaves: half a surrogate pair.
    return hashlib.sha256(_compact(metadata).encode("utf-8", "surrogatepass")).hexdigest()


def _integer(digits: str) -> int:
    # The time that Python takes grows with the square of their number.
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"an integer has {len(digits)} digits")
    return int(digits)
