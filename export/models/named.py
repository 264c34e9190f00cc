"""The network that a folded model's metadata names, found again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from export.networks.feature_map import UnknownLayerError
from runtime.contract import METADATA_KEY, Contract
from runtime.errors import FoldcamError
from runtime.onnx_file import read_header

if TYPE_CHECKING:
    from export.networks.cut import Network

_ENGINES = (".engine", ".plan", ".trt")
_FILES = (".pt2", ".safetensors", ".onnx")


def is_folded_file(text: str) -> bool:
    """Whether the text names a folded model or an engine, and not a MODEL.

    Raises:
        FoldcamError: an `.onnx` that cannot be read.
    """
    suffix = Path(text).suffix.lower()
    if suffix in _ENGINES:
        return True
    return suffix == ".onnx" and METADATA_KEY in read_header(Path(text)).metadata


def load_network(
    model_path: Path,
    contract: Contract,
    spec: str | None = None,
    weights: Path | None = None,
    output: str | None = None,
) -> Network:
    """The network that a folded model came from, cut where the model is.

    Args:
        model_path: the folded model; files that its metadata names are looked for beside
            it and in the working directory.
        contract: of that model.
        spec: MODEL, or None for the one that the metadata names.
        weights: of that MODEL, or None for those that the metadata name.
        output: which of the network's outputs is the embedding, where several could be.

    Raises:
        FoldcamError: it cannot be found or loaded.
    """
    from export.models.spec import load_model

    if spec is None:
        origin = contract.origin
        spec = origin.network
        # FILE#OUTPUT where the embedding is one output of several.
        file, mark, named = spec.partition("#")
        if file.endswith(_FILES):
            spec = f"{_beside(model_path, file, '--against')}{mark}{named}"
        if origin.weights and weights is None:
            weights = _beside(model_path, origin.weights, "--weights")
    recipe = contract.preprocessing
    loaded = load_model(spec, weights, output)
    try:
        return loaded.network(contract.layer, (recipe.height, recipe.width), exact=False)
    except UnknownLayerError:
        raise FoldcamError(
            f"{model_path} was made from another network: {loaded.name} has no layer "
            f"{contract.layer!r}; name its own with --against."
        ) from None


def _beside(model: Path, name: str, flag: str) -> Path:
    """A file that the metadata names without its folder: beside the model, or here."""
    for folder in (model.parent, Path()):
        if (folder / name).is_file():
            return folder / name
    raise FoldcamError(
        f"{model} was made from {name}, which is neither beside it nor in the working directory: "
        f"say where it is with {flag} PATH."
    )
