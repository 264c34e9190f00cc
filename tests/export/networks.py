"""Networks small enough to compute by hand, each with one peculiarity."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE = (12, 16)
"""Height and width of the images; every network takes them."""


class Trunk(nn.Module):
    """Convolution and ReLU, image -> `[N, 4, 5, 7]`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.act = nn.ReLU()

    def forward(self, image: Tensor) -> Tensor:
        return self.act(self.conv(image))


class PlainConv(nn.Module):
    """Average pool and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.fc = nn.Linear(4, 3)

    def feature(self, image: Tensor) -> Tensor:
        return self.trunk(image)

    def head(self, feature_map: Tensor) -> Tensor:
        return self.fc(feature_map.mean((2, 3)))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.feature(image))


class Normalized(PlainConv):
    def forward(self, image: Tensor) -> Tensor:
        return functional.normalize(super().forward(image))


class DividedByNorm(PlainConv):
    def forward(self, image: Tensor) -> Tensor:
        embedding = super().forward(image)
        return embedding / embedding.norm(dim=1, keepdim=True)


class DividedInPlace(PlainConv):
    def forward(self, image: Tensor) -> Tensor:
        embedding = super().forward(image)
        embedding /= embedding.norm(dim=1, keepdim=True)
        return embedding


class ReciprocalRoot(PlainConv):
    def forward(self, image: Tensor) -> Tensor:
        embedding = super().forward(image)
        return embedding * embedding.pow(2).sum(1, keepdim=True).rsqrt()


class ScaledNormalized(PlainConv):
    def forward(self, image: Tensor) -> Tensor:
        return 16 * functional.normalize(super().forward(image))


class LearnedScale(PlainConv):
    """A learned temperature, as CLIP has."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, image: Tensor) -> Tensor:
        return self.logit_scale.exp() * functional.normalize(super().forward(image))


class NormalizedThenView(PlainConv):
    def head(self, feature_map: Tensor) -> Tensor:
        pooled = feature_map.mean((2, 3), keepdim=True)
        return self.fc(pooled.flatten(1))[:, :, None, None]

    def forward(self, image: Tensor) -> Tensor:
        embedding = functional.normalize(self.head(self.feature(image)), dim=1)
        return embedding.view(embedding.shape[0], -1)


class NeckNormalized(PlainConv):
    """BN neck, then normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = _random_batch_norm(nn.BatchNorm1d(3))

    def head(self, feature_map: Tensor) -> Tensor:
        return self.neck(super().head(feature_map))

    def forward(self, image: Tensor) -> Tensor:
        return functional.normalize(super().forward(image))


class RowGate(PlainConv):
    """`x * f(x)` with one learned number per row: not a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(3, 1)

    def forward(self, image: Tensor) -> Tensor:
        embedding = super().forward(image)
        return embedding * torch.sigmoid(self.gate(embedding))


class Softmax(PlainConv):
    """Divides by a sum over the row, but not by its L2 norm."""

    def forward(self, image: Tensor) -> Tensor:
        powers = super().forward(image).exp()
        return powers / powers.sum(1, keepdim=True)


class SqueezeExcite(PlainConv):
    """A global pool in the middle, whose result flows back into the map."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    def feature(self, image: Tensor) -> Tensor:
        x = self.trunk(image)
        gate = self.excite(functional.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(gate)


class FlattenHead(PlainConv):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4 * 5 * 7, 3)

    def head(self, feature_map: Tensor) -> Tensor:
        return self.fc(feature_map.flatten(1))


class GlobalDepthwise(PlainConv):
    """One weight per channel and position, as in MobileFaceNet."""

    def __init__(self) -> None:
        super().__init__()
        self.gdc = nn.Conv2d(4, 4, (5, 7), groups=4)

    def head(self, feature_map: Tensor) -> Tensor:
        return self.fc(self.gdc(feature_map).flatten(1))


class TwoPools(PlainConv):
    """Average and maximum of the same map, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 3)

    def head(self, feature_map: Tensor) -> Tensor:
        return self.fc(torch.cat([feature_map.mean((2, 3)), feature_map.amax((2, 3))], dim=1))


class BottleNeck(PlainConv):
    """BN neck without normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = _random_batch_norm(nn.BatchNorm1d(3))

    def head(self, feature_map: Tensor) -> Tensor:
        return self.neck(super().head(feature_map))


class MlpHead(PlainConv):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 6)
        self.fc = nn.Linear(6, 3)

    def head(self, feature_map: Tensor) -> Tensor:
        return self.fc(torch.relu(self.hidden(feature_map.mean((2, 3)))))


class FunctionalActivation(PlainConv):
    """The last spatial activation is a function, not a module."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(4, 4, 1)

    def feature(self, image: Tensor) -> Tensor:
        return functional.relu(self.last(self.trunk(image)))


class SharedActivation(PlainConv):
    """One in-place ReLU module, used after each of two convolutions and in the head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        del self.trunk

    def feature(self, image: Tensor) -> Tensor:
        return self.relu(self.second(self.relu(self.first(image))))

    def head(self, feature_map: Tensor) -> Tensor:
        return self.relu(self.fc(feature_map.mean((2, 3))) + 2)


class WritesThroughView(PlainConv):
    """Writes into a part of a tensor whose whole is used later."""

    def feature(self, image: Tensor) -> Tensor:
        x = self.trunk.conv(image)
        x[:, 1:].mul_(3.0)
        return torch.relu(x)


class SideBranch(PlainConv):
    """`side` is computed and never reaches the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Conv2d(4, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.trunk(image)
        self.side(x).sum()
        return self.head(x)


class Detached(PlainConv):
    def head(self, feature_map: Tensor) -> Tensor:
        return self.fc(torch.round(feature_map.mean((2, 3))))


class NoMap(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * SIZE[0] * SIZE[1], 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(image.flatten(1))


class FixedBatch(PlainConv):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image).view(2, 3) * 1.0


class TwoOutputs(PlainConv):
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        embedding = super().forward(image)
        return embedding, embedding * 2


class DataDependent(PlainConv):
    def forward(self, image: Tensor) -> Tensor:
        embedding = super().forward(image)
        return embedding if float(embedding.sum()) > 0 else -embedding


class NamedGraph(PlainConv):
    """An attribute whose name torch's graph modules need for themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = nn.Linear(3, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.graph(super().forward(image))


class Training(PlainConv):
    """Dropout and batch norm, left in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = _random_batch_norm(nn.BatchNorm2d(4)), nn.Dropout(0.5)
        self.train()

    def feature(self, image: Tensor) -> Tensor:
        return torch.relu(self.norm(self.trunk.conv(image)))

    def head(self, feature_map: Tensor) -> Tensor:
        return self.fc(self.drop(feature_map.mean((2, 3))))


class AlwaysDropout(PlainConv):
    """Dropout that eval mode does not switch off."""

    def head(self, feature_map: Tensor) -> Tensor:
        return self.fc(functional.dropout(feature_map.mean((2, 3)), 0.5, training=True))


class FaintNoise(PlainConv):
    def head(self, feature_map: Tensor) -> Tensor:
        pooled = feature_map.mean((2, 3))
        return self.fc(pooled + 0.1 * torch.randn_like(pooled))


class AlwaysBatchNorm(PlainConv):
    """Normalised by whatever else is in the batch."""

    def head(self, feature_map: Tensor) -> Tensor:
        pooled = feature_map.mean((2, 3))
        return self.fc(functional.batch_norm(pooled, None, None, training=True))


class NotANumber(PlainConv):
    """Deterministic, and still never equal to itself."""

    def head(self, feature_map: Tensor) -> Tensor:
        return super().head(feature_map) * float("nan")


class Attentive(PlainConv):
    """Squeeze and excitation, then one block of a transformer over the cells of its map."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.norm, self.attention = nn.LayerNorm(4), nn.MultiheadAttention(4, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
        self.last = nn.Sequential(nn.GroupNorm(2, 4), nn.Hardswish())

    def feature(self, image: Tensor) -> Tensor:
        x = self.trunk(image)
        x = x * self.excite(functional.silu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()
        cells = x.flatten(2).transpose(1, 2)
        known = self.norm(cells)
        cells = cells + self.attention(known, known, known, need_weights=False)[0]
        cells = cells + self.mlp(cells)
        return self.last(cells.transpose(1, 2).unflatten(2, (5, 7)))

    def forward(self, image: Tensor) -> Tensor:
        return functional.normalize(super().forward(image))


class NamedLikeOutputs(PlainConv):
    """Parameters with the names of the folded model's inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("image", "embedding", "heatmap", "neighbor", "similarity", "feature_map"):
            self.register_parameter(name, nn.Parameter(torch.randn(3)))

    def forward(self, image: Tensor) -> Tensor:
        scales = self.image * self.embedding * self.heatmap * self.feature_map
        return super().forward(image) * scales + self.neighbor + self.similarity


class Constant(PlainConv):
    """The same parameters whatever `factor` is."""

    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) * self.factor


def make_tiny(seed: int = 0) -> nn.Module:
    """Colours told apart by a 1x1 convolution; average pool, linear, normalised."""
    torch.manual_seed(seed)
    network = Normalized()
    network.trunk.conv = nn.Conv2d(3, 6, 3, stride=2)
    network.fc = nn.Linear(6, 4)
    return network


def _random_batch_norm(norm: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for name, tensor in norm.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            assert name
    return norm
