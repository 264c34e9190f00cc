"""Losses for training: pytorch-metric-learning's, and the kernel estimate for continuous labels."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from foldcam.runtime.system.errors import FoldcamError

EmbeddingLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Called with embeddings `float32 [B, D]` of norm 1 and labels `[B]`."""


@dataclass(frozen=True)
class TrainingLoss:
    """A loss and the weights of its own that are trained with the network.

    Attributes:
        function: embeddings of norm 1, labels -> scalar.
        module: what holds its weights (proxies), if it has any.
    """

    function: EmbeddingLoss
    module: nn.Module | None = None


def parse_loss(text: str, miner: str | None, classes: int, embedding_size: int) -> TrainingLoss:
    """The loss that a command-line text names.

    Args:
        text: a loss of pytorch-metric-learning with optional arguments, such as
            `SupConLoss:temperature=0.1`, or `kernel:tau=0.1` for continuous labels.
    """
    name, *settings = text.split(":")
    arguments = dict(_setting(text, setting) for setting in settings)
    if name == "kernel":
        tau = arguments.pop("tau", 0.1)
        if arguments:
            raise FoldcamError(f"--loss {text!r}: kernel takes tau alone, as in kernel:tau=0.1.")
        return TrainingLoss(lambda embeddings, values: kernel_loss(embeddings, values, tau))
    from pytorch_metric_learning import losses, miners

    factory = _member(losses, name, losses.BaseMetricLossFunction, "--loss")
    known = inspect.signature(factory).parameters
    if "num_classes" in known:
        arguments["num_classes"] = classes
    if "embedding_size" in known:
        arguments["embedding_size"] = embedding_size
    loss = _made(factory, f"--loss {text!r}", arguments)
    mine: Any = None
    if miner is not None:
        miner_name, *miner_settings = miner.split(":")
        factory = _member(miners, miner_name, miners.BaseMiner, "--miner")
        mine = _made(
            factory, f"--miner {miner!r}", dict(_setting(miner, item) for item in miner_settings)
        )

    def function(embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        found = mine(embeddings, labels) if mine is not None else None
        value: torch.Tensor = loss(embeddings, labels, found)
        return value

    weighted = any(True for _ in loss.parameters())
    return TrainingLoss(function, loss if weighted else None)


def kernel_loss(embeddings: torch.Tensor, values: torch.Tensor, tau: float) -> torch.Tensor:
    """Mean squared error of the kernel estimate, each row estimated from the others.

    `p_i = sum_j w_ij y_j`, `w_i = softmax_j(s_ij / tau)` over `j != i`: what the folded
    graph will estimate with, trained as it is used.

    Args:
        embeddings: `float32 [B, D]` of norm 1.
        values: `float32 [B]`.
    """
    similarities = embeddings @ embeddings.T / tau
    itself = torch.eye(len(values), dtype=torch.bool, device=values.device)
    weights = torch.softmax(similarities.masked_fill(itself, -torch.inf), dim=1)
    return ((weights @ values - values) ** 2).mean()


def _member(module: Any, name: str, base: type, flag: str) -> Any:
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise FoldcamError(f"{flag}: pytorch-metric-learning has no {name!r}.")
    return found


def _made(factory: Any, what: str, arguments: dict[str, Any]) -> Any:
    try:
        return factory(**arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise FoldcamError(f"{what} cannot be made: {error}.") from None


def _setting(text: str, setting: str) -> tuple[str, Any]:
    key, _, value = setting.partition("=")
    try:
        return key, int(value) if value.lstrip("-").isdigit() else float(value)
    except ValueError:
        raise FoldcamError(f"{text!r}: {setting!r} is not name=number, as in margin=0.1.") from None
