"""A classifier as a network that ends in its logits, and what it makes scores of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from foldcam.export.models.spec import LoadedModel
from foldcam.export.networks.cut import Network
from foldcam.export.networks.onnx_networks.input import OutputChoiceError, offer
from foldcam.export.networks.outputs import OutputsError
from foldcam.export.onnx_graphs.embedding_model import FEATURE_MAP
from foldcam.export.onnx_graphs.file import OnnxFile, ending_at
from foldcam.export.onnx_graphs.normalization import add_scores, find_logits
from foldcam.runtime.contract.schema import EMBEDDING, ScoreKind
from foldcam.runtime.system.errors import FoldcamError


@dataclass(frozen=True)
class ClassifierNetwork:
    """A classifier, cut at its sum over positions.

    Attributes:
        network: image -> logits `[N, C]`, in place of an embedding.
        scores: what the classifier itself returns.
        layer: the feature map's name in the classifier.
    """

    network: Network
    scores: ScoreKind
    layer: str

    def to_onnx(self, opset: int = 18) -> onnx.ModelProto:
        """As `Network.to_onnx`, with the scores as the output `embedding`."""
        model = self.network.to_onnx(opset)
        add_scores(model, self.scores)
        return model


def classifier_network(
    loaded: LoadedModel, layer: str | None = None, size: tuple[int, int] | None = None
) -> ClassifierNetwork:
    """The classifier, cut in front of what makes scores of its logits.

    A softmax would mix the evidence for all classes, and has no gradient left where it is sure.

    Args:
        layer: name of the feature map, or None to find it.
        size: `(height, width)` of the input in pixels, by default the preprocessing's.
    """
    # ONNX Runtime is loaded only where it is needed.
    from foldcam.export.networks.onnx_networks.cut import OnnxNetwork
    from foldcam.export.networks.onnx_networks.summand_network import SummandNetwork, with_summands

    image_size = size or (loaded.preprocessing.height, loaded.preprocessing.width)
    file = loaded.source if isinstance(loaded.source, OnnxFile) else None
    scores: ScoreKind = "logits"
    try:
        if file is not None:
            end = file.output or _only_output(file)
            logits, scores = find_logits(file.model.graph, end) if end else ("", "logits")
            cut = file if scores == "logits" else ending_at(file, logits)
            network: Network = OnnxNetwork(cut, image_size, layer, device=loaded.device)
            name = network.layer
            network = with_summands(network, loaded.device)
        else:
            network = loaded.network(layer, size)
            name, whole = network.layer, network.to_onnx()
            logits, scores = find_logits(whole.graph, EMBEDDING)
            if scores != "logits":
                # Its own layer, where the other's feature map are summands.
                base = network.base if isinstance(network, SummandNetwork) else network
                whole = base.to_onnx()
                logits, _ = find_logits(whole.graph, EMBEDDING)
                cut = ending_at(OnnxFile(Path(loaded.name), whole), logits)
                found = OnnxNetwork(cut, image_size, FEATURE_MAP, device=loaded.device)
                # It is known by the module that it came from.
                found._sha256 = base.sha256()
                network = with_summands(found, loaded.device)
    except OutputsError as error:
        raise _no_scores(error.returned, several=error.several) from error
    except OutputChoiceError as error:
        raise _asked(error, file) from error
    # Without a place where that happens, the scores of noise merely had one length.
    if network.normalized and network.head_before_normalization:
        raise FoldcamError(
            "The network ends in a normalisation, as embedding networks do and classifiers do not: "
            "give its training images with --images."
        )
    return ClassifierNetwork(network, scores, name)


def _only_output(file: OnnxFile) -> str | None:
    outputs = [str(value.name) for value in file.model.graph.output]
    return outputs[0] if len(outputs) == 1 else None


def _asked(question: OutputChoiceError, file: OnnxFile | None) -> FoldcamError:
    """The question which output holds the scores, or that none does."""
    assert file is not None
    outputs = {str(value.name) for value in file.model.graph.output}
    if question.choices and set(question.choices) <= outputs:
        return FoldcamError(
            f"The network has several outputs that could be the scores{offer(question.choices)}"
        )
    problem = question.problem.partition(", and an embedding")[0]
    return FoldcamError(f"{problem}, {_NEEDED}")


def _no_scores(returned: str, *, several: bool) -> FoldcamError:
    if several:
        return FoldcamError(
            f"The network returns several tensors that could be the scores: choose one with "
            f"--output: {returned}."
        )
    return FoldcamError(f"The network returns {returned}, {_NEEDED}")


_NEEDED = (
    "and a classifier returns one score for each of two or more classes, [N, C]: networks that "
    "return boxes, or a class for each position, as detection and segmentation do, cannot be "
    "folded as classifiers."
)
