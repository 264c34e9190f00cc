"""The network that a folded model came from: as the user names it, or as its metadata do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from foldcam.export.networks.feature_map import UnknownLayerError
from foldcam.export.onnx_graphs.device import CPU, Device
from foldcam.runtime.contract.onnx_file import read_header
from foldcam.runtime.contract.schema import METADATA_KEY, Contract
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.text import printable

if TYPE_CHECKING:
    from foldcam.export.networks.cut import Network

_ENGINES = (".engine", ".plan", ".trt")
_FILES = (".pt2", ".safetensors", ".onnx")


def is_folded_file(text: str) -> bool:
    """Whether the text names a folded model or an engine, and not a MODEL."""
    suffix = Path(text).suffix.lower()
    if suffix in _ENGINES:
        return True
    return suffix == ".onnx" and METADATA_KEY in read_header(Path(text)).metadata


def load_network(
    model_path: Path,
    contract: Contract,
    spec: str,
    weights: Path | None = None,
    output: str | None = None,
    device: Device = CPU,
) -> Network:
    """The network that the user names, cut where a folded model is.

    Args:
        contract: the contract of that model.
        spec: MODEL.
        weights: the weights of that MODEL.
        output: which of the network's outputs is the embedding, where several could be.
        device: where it runs.
    """
    from foldcam.export.models.spec import load_model

    recipe = contract.preprocessing
    loaded = load_model(spec, weights, output, device)
    try:
        if contract.scores is not None:
            from foldcam.export.models.classifier import classifier_network

            size = recipe.height, recipe.width
            return classifier_network(loaded, contract.layer, size).network
        explained = contract.explanation
        summed = explained is not None and explained.summands != "none"
        return loaded.network(
            contract.layer, (recipe.height, recipe.width), exact=summed, summands=summed
        )
    except UnknownLayerError:
        raise FoldcamError(
            f"{model_path} was made from another network: {loaded.name} has no layer "
            f"{contract.layer!r}; name its own with --against."
        ) from None


def load_origin(
    model_path: Path,
    contract: Contract,
    weights: Path | None = None,
    output: str | None = None,
    device: Device = CPU,
) -> Network:
    """The network that the metadata name: only for a user who trusts the file's author.

    What they name as `module:function` is imported and called. Files are looked for beside the
    model and in the working directory, by their plain names.

    Args:
        weights: the weights of that network, or None for those that the metadata name.
    """
    origin = contract.origin
    spec = origin.network
    # FILE#OUTPUT where the embedding is one output of several.
    file, mark, named = spec.partition("#")
    if file.endswith(_FILES):
        spec = f"{_beside(model_path, file, '--against')}{mark}{named}"
    if origin.weights and weights is None:
        weights = _beside(model_path, origin.weights, "--weights")
    return load_network(model_path, contract, spec, weights, output, device)


def _beside(model: Path, name: str, flag: str) -> Path:
    """A file that the metadata name, which has to be a plain name."""
    if Path(name).name == name and "\0" not in name:
        for folder in (model.parent, Path()):
            if (folder / name).is_file():
                return folder / name
    raise FoldcamError(
        f"{model} was made from {printable(name)}, which is neither beside it nor in the working "
        f"directory: say where it is with {flag} PATH."
    )
