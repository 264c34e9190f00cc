"""Small embedding networks, each with one peculiarity of the networks that teams ship."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


def _conv(channels: int, filters: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, filters, 3, stride, 1, groups=groups, bias=False),
        nn.BatchNorm2d(filters),
        nn.PReLU(filters),
    )


def _stem() -> nn.Sequential:
    """Image -> `[N, 32, H / 8, W / 8]`."""
    return nn.Sequential(_conv(3, 16, 2), _conv(16, 24, 2), _conv(24, 32, 2))


class NeckNetwork(nn.Module):
    """Re-identification: average pool, BatchNorm neck, normalised embedding (as BoT)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.neck = _stem(), nn.BatchNorm1d(32)

    def forward(self, image: Tensor) -> Tensor:
        """Image -> `[N, 32]`."""
        return functional.normalize(self.neck(self.stem(image).mean((2, 3))))


class PartNetwork(nn.Module):
    """Re-identification by parts: six stripes pooled and projected on their own (as PCB)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _stem()
        self.parts = nn.ModuleList(nn.Linear(32, 16) for _ in range(6))

    def forward(self, image: Tensor) -> Tensor:
        """Image -> `[N, 96]`."""
        stripes = functional.adaptive_avg_pool2d(self.stem(image), (6, 1))
        rows = [part(stripes[:, :, i, 0]) for i, part in enumerate(self.parts)]
        return functional.normalize(torch.cat(rows, dim=1))


class BranchNetwork(nn.Module):
    """Re-identification: branches with convolutions and pools of their own (as MGN)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _stem()
        self.whole, self.halves = _conv(32, 48, 2), _conv(32, 48)
        self.fc = nn.Linear(48 * 3, 64)

    def forward(self, image: Tensor) -> Tensor:
        """Image -> `[N, 64]`."""
        shared = self.stem(image)
        whole = self.whole(shared).amax((2, 3))
        top, bottom = functional.adaptive_max_pool2d(self.halves(shared), (2, 1)).unbind(2)
        embedding: Tensor = self.fc(torch.cat([whole, top[..., 0], bottom[..., 0]], dim=1))
        return embedding


class FaceNetwork(nn.Module):
    """Face: PReLU, global depthwise convolution, BatchNorm (as MobileFaceNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _stem()
        self.depthwise = nn.Conv2d(32, 32, 14, groups=32, bias=False)
        self.norm, self.fc = nn.BatchNorm2d(32), nn.Conv2d(32, 128, 1, bias=False)
        self.last = nn.BatchNorm1d(128)

    def forward(self, image: Tensor) -> Tensor:
        """Image -> `[N, 128]`."""
        embedding: Tensor = self.last(
            self.fc(self.norm(self.depthwise(self.stem(image)))).flatten(1)
        )
        return embedding


class FlattenNetwork(nn.Module):
    """Face: dropout, flatten, one large linear layer, BatchNorm (as ArcFace's ResNets)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.drop = _stem(), nn.BatchNorm2d(32), nn.Dropout(0.4)
        self.fc, self.last = nn.Linear(32 * 14 * 14, 512), nn.BatchNorm1d(512)

    def forward(self, image: Tensor) -> Tensor:
        """Image -> `[N, 512]`."""
        embedding: Tensor = self.last(self.fc(self.drop(self.norm(self.stem(image))).flatten(1)))
        return embedding


class GeneralizedMeanNetwork(nn.Module):
    """Image retrieval: generalised mean pooling with a learned power, whitening."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.power = _stem(), nn.Parameter(torch.tensor(3.0))
        self.whiten = nn.Linear(32, 64)

    def forward(self, image: Tensor) -> Tensor:
        """Image -> `[N, 64]`."""
        powers = self.stem(image).clamp(min=1e-6).pow(self.power)
        pooled = powers.mean((2, 3)).pow(1 / self.power)
        return functional.normalize(self.whiten(functional.normalize(pooled)))


class AttentionNetwork(nn.Module):
    """Attention pooling: one weight per position, multiplied in."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.weight, self.fc = _stem(), nn.Conv2d(32, 1, 1), nn.Linear(32, 64)

    def forward(self, image: Tensor) -> Tensor:
        """Image -> `[N, 64]`."""
        x = self.stem(image)
        weights = self.weight(x).flatten(2).softmax(dim=-1).view_as(x[:, :1])
        embedding: Tensor = self.fc((x * weights).sum((2, 3)))
        return embedding


class GatedNetwork(nn.Module):
    """Squeeze and excitation before the pool, a hidden layer after it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate = _stem(), nn.Sequential(nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1))
        self.head = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 4096))

    def forward(self, image: Tensor) -> Tensor:
        """Image -> `[N, 4096]`."""
        x = self.stem(image)
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        embedding: Tensor = self.head(x.mean((2, 3)))
        return embedding


class ChannelsLastNetwork(nn.Module):
    """Channels last inside: LayerNorm and linear layers on `[N, h, w, K]`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = _stem(), nn.LayerNorm(32)
        self.mix, self.fc = nn.Linear(32, 40), nn.Linear(40, 64)

    def forward(self, image: Tensor) -> Tensor:
        """Image -> `[N, 64]`."""
        x = self.norm(self.stem(image).permute(0, 2, 3, 1))
        embedding: Tensor = self.fc(functional.gelu(self.mix(x)).mean((1, 2)))
        return embedding


class DictionaryNetwork(NeckNetwork):
    """Returns a dictionary of embedding and feature map."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Image -> `{"features": [N, 32, h, w], "embedding": [N, 32]}`."""
        x = self.stem(image)
        return {"features": x, "embedding": self.neck(x.mean((2, 3)))}


class TupleNetwork(NeckNetwork):
    """Returns the map and the embedding side by side."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Image -> (`[N, 32, h, w]`, `[N, 32]`)."""
        x = self.stem(image)
        return x, functional.normalize(x.mean((2, 3)))


@dataclass
class Answer:
    """What `DataclassNetwork` returns."""

    embedding: Tensor
    logits: Tensor | None = None


class DataclassNetwork(NeckNetwork):
    """Returns a dataclass of its own."""

    def forward(self, image: Tensor) -> Answer:  # type: ignore[override]
        """Image -> `Answer`."""
        return Answer(self.neck(self.stem(image).mean((2, 3))))
