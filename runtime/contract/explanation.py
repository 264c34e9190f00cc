"""What a model's maps are made of, and how much of where they can say, in words."""

from __future__ import annotations

from foldcam.runtime.contract.schema import Contract, Explanation, ScoreKind, SummandKind

FEW_CELLS = 25
"""A feature map of fewer cells shows little: at 3 x 3 a heatmap names a ninth of the image."""

_SUMS: dict[SummandKind, str] = {
    "pool": "the pooling over positions",
    "depthwise": "the global depthwise convolution",
    "linear": "the linear layer over the flattened map",
    "attention": "the last attention",
    "none": "",
}

_SCORES: dict[ScoreKind, str] = {
    "logits": "logits",
    "softmax": "probabilities, the softmax of the logits",
    "log-softmax": "logarithms of probabilities, the log-softmax of the logits",
    "sigmoid": "a probability for each class by itself, the sigmoid of its logit",
}


def scores_text(scores: ScoreKind) -> str:
    """What a classifier's scores are, in words."""
    return _SCORES[scores]


def explanation_text(explanation: Explanation, scores: ScoreKind | None = None) -> str:
    """What the numbers of a map are made of, in one sentence for engineers."""
    if explanation.summands == "none":
        made = (
            "the last spatial activation times the spatial mean of its gradient, because the "
            "network has no sum over positions"
        )
    else:
        what = "comparison" if scores is None else "logit of the class"
        made = f"what each position adds to the {what} through {_SUMS[explanation.summands]}"
    compared = (
        ", less what it adds on average over the training images"
        if explanation.baseline == "mean"
        else ""
    )
    nearest = "the nearest training image" if scores is None else "the class, the same everywhere"
    weights = (
        f"grad-weights {'transferred from' if scores is None else 'of'} {nearest}"
        if explanation.grad_weights == "transferred"
        else "grad-weights of the image itself, computed in the graph"
    )
    return f"{made}{compared}; {weights}"


def is_coarse(contract: Contract) -> bool:
    """Whether the feature map has too few cells for a map to say much of where."""
    return contract.feature_map[1] * contract.feature_map[2] < FEW_CELLS


def coarse_text(contract: Contract) -> str:
    """One sentence about a coarse feature map."""
    _, height, width = contract.feature_map
    return (
        f"The feature map has {height} x {width} cells only, so that the heatmaps say little of "
        "where."
    )
