"""The file of `foldcam train`: weights as safetensors, the architecture in the header."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import nn

from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.documents import Natural, Versioned, read_document
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path, refuse_special
from foldcam.runtime.system.strict_json import parse_json

_FORMAT = "foldcam.network"
_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Architecture:
    """Enough to build the module again.

    Attributes:
        base: MODEL of the backbone or network it was made from.
        embedding_size: `D` of the projection, None where there is none.
        preprocessing: the preprocessing of the network.
    """

    base: str
    embedding_size: Natural | None
    preprocessing: Preprocessing


def embedding_network(base: nn.Module, architecture: Architecture) -> nn.Module:
    """The module of an architecture, around a base that is loaded already."""
    if architecture.embedding_size is None:
        return base
    recipe = architecture.preprocessing
    with torch.no_grad():
        features = base.eval()(torch.randn(2, 3, recipe.height, recipe.width))
    if not (isinstance(features, torch.Tensor) and features.ndim == 2):
        raise FoldcamError(f"MODEL {architecture.base!r} does not return features [N, F].")
    norms = features.norm(dim=1)
    if bool((norms - 1).abs().max() < 1e-3):
        raise FoldcamError(
            f"MODEL {architecture.base!r} returns normalised embeddings: leave out "
            "--embedding-size to fine-tune it as it is, or name a model that returns its pooled "
            "features, such as efficientnet-lite0."
        )
    return ProjectedNetwork(
        base, int(features.shape[1]), architecture.embedding_size, architecture.preprocessing
    )


def save_network(
    path: Path, module: nn.Module, architecture: Architecture, training: dict[str, Any]
) -> None:
    """Write weights, architecture and how they were trained."""
    header = {
        "schema_version": _SCHEMA_VERSION,
        "base": architecture.base,
        "embedding_size": architecture.embedding_size or 0,
        "preprocessing": asdict(architecture.preprocessing),
        "training": training,
    }
    # Tied weights share memory, which safetensors refuses.
    tensors = {name: t.detach().cpu().clone() for name, t in module.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={_FORMAT: json.dumps(header, sort_keys=True)})


def trained_architecture(path: Path) -> Architecture | None:
    """The architecture in a safetensors file, or None if it holds weights alone."""
    refuse_special(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as stored:
            text = (stored.metadata() or {}).get(_FORMAT)
    except FileNotFoundError:
        raise FoldcamError(f"{path} does not exist.") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise FoldcamError(f"{path} is not safetensors, or it is damaged ({error}).") from error
    if text is None:
        return None
    try:
        document = parse_json(text)
    except ValueError as error:
        raise FoldcamError(f"{path}: its header is not JSON ({error}).") from None
    where = f"{path}: header"
    if read_document(Versioned, document, where).schema_version != _SCHEMA_VERSION:
        raise FoldcamError(
            f"{where}: schema_version is not {_SCHEMA_VERSION}: train the network again."
        )
    found = read_document(Architecture, document, where, whole=("preprocessing",))
    return replace(found, embedding_size=found.embedding_size or None)


def read_architecture(path: Path) -> Architecture:
    """The architecture in a file of `foldcam train`."""
    architecture = trained_architecture(path)
    if architecture is None:
        raise FoldcamError(
            f"{path} holds weights without an architecture: name the network and pass them with "
            f"--weights {path.name}."
        )
    return architecture


class ProjectedNetwork(nn.Module):
    """`normalize(W f(image))`: a backbone's pooled features, projected to size D.

    The projection has no bias and starts orthogonal: it keeps angles, so that the
    pretrained features' neighborhoods survive the first step.

    Args:
        backbone: image `float32 [N, 3, H, W]` -> features `[N, F]`, not normalised.
        features: `F`.
        size: `D`.
        preprocessing: the preprocessing of the backbone.
    """

    def __init__(
        self, backbone: nn.Module, features: int, size: int, preprocessing: Preprocessing
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = nn.Linear(features, size, bias=False)
        nn.init.orthogonal_(self.projection.weight)
        self.preprocessing = preprocessing

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image `float32 [N, 3, H, W]` -> embedding `[N, D]` of norm 1."""
        return nn.functional.normalize(self.projection(self.backbone(image)), dim=1)
