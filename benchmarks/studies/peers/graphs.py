"""The graphs in ONNX Runtime: the plain network, foldcam, and the feature map taken outside."""

from __future__ import annotations

import numpy as np
import onnxruntime

from foldcam.benchmarks.evaluation.interleaved import open_session
from foldcam.benchmarks.studies.peers.peer import (
    FOLDCAM,
    NO_MAP,
    PLAIN,
    Asked,
    Floats,
    Peer,
    Setting,
)
from foldcam.export.onnx_graphs.embedding_model import FEATURE_MAP
from foldcam.runtime.contract.schema import EMBEDDING, HEATMAP, IMAGE

LIBRARY = f"onnxruntime {onnxruntime.__version__}"
_TRIPLET_SEED = 7


def plain(setting: Setting) -> Peer:
    """The embedding network alone: what everything is divided by."""
    session = open_session(setting.plain)

    def run(image: Floats, _: Asked) -> Floats:
        session.run(None, {IMAGE: image})
        return NO_MAP

    return Peer(PLAIN, "the embedding network alone, no heatmap", LIBRARY, run)


def foldcam(setting: Setting) -> Peer:
    """The folded graph as a device runs it.

    In a grid the grad-weights are those of the row that the graph returned for the single
    image: the picture of four has no row of its own.
    """
    session = open_session(setting.folded)
    embedder: list[onnxruntime.InferenceSession] = []

    def run(image: Floats, _: Asked) -> Floats:
        names = [value.name for value in session.get_outputs()]
        found = dict(zip(names, session.run(None, {IMAGE: image}), strict=True))
        heat: Floats = found[HEATMAP][0, 0]
        return heat

    def explain_grid(image: Floats, asked: Asked) -> Floats:
        from foldcam.benchmarks.evaluation.localization.methods import weighted

        if not embedder:
            embedder.append(open_session(setting.embedder))
        feature_map = embedder[0].run([FEATURE_MAP], {IMAGE: image})[0]
        bank = setting.bank
        heat: Floats = weighted(bank.grad_weights[bank.grad_index[[asked.row]]], feature_map)[0]
        return heat

    title = "foldcam: bank, transfer and heatmap in the graph"
    return Peer(FOLDCAM, title, LIBRARY, run, explain_grid)


def kmeans_outside(setting: Setting) -> Peer:
    """Faster-Grad-CAM's way: k-means over the training embeddings, the rest in Python.

    Each cluster has the mean of its images' grad-weights, each from one triplet through the
    whole head as plain Grad-CAM takes them; at run time scikit-learn finds the cluster, NumPy
    multiplies, and OpenCV brings the map to the input's size.
    """
    import cv2
    import sklearn
    from sklearn.cluster import KMeans

    session = open_session(setting.embedder)
    bank, recipe = setting.bank, setting.contract.preprocessing
    labels = bank.row_labels()
    clusters = KMeans(len(set(labels)), n_init=4, random_state=0).fit(bank.embeddings)
    weights = _cluster_weights(setting, clusters.labels_, clusters.n_clusters)

    def answer(image: Floats, embedding: Floats | None) -> Floats:
        feature_map, found = session.run([FEATURE_MAP, EMBEDDING], {IMAGE: image})
        unit = found / np.linalg.norm(found) if embedding is None else embedding[None]
        cluster = int(clusters.predict(unit.astype(np.float32))[0])
        channels, height, width = feature_map.shape[1:]
        product = weights[cluster] @ feature_map.reshape(channels, height * width)
        heat = np.maximum(product.reshape(height, width), 0)
        heat /= max(float(heat.max()), 1e-20)
        large: Floats = cv2.resize(heat, (recipe.width, recipe.height)).astype(np.float32)
        return large

    return Peer(
        "kmeans_outside_graph",
        f"Faster-Grad-CAM's way: k-means ({clusters.n_clusters} clusters) and products in Python",
        f"{LIBRARY}, scikit-learn {sklearn.__version__}",
        lambda image, _: answer(image, None),
        lambda image, asked: answer(image, asked.embedding),
    )


def _cluster_weights(setting: Setting, belongs: Floats, count: int) -> Floats:
    """`float32 [clusters, K]`: mean one-triplet grad-weights of each cluster's bank rows.

    A normalised row is its own head's end, up to a positive factor that the scaling takes out
    again: for a linear head the gradient does not depend on the image.
    """
    import torch

    from foldcam.benchmarks.evaluation.localization.methods import (
        Methods,
        Question,
        through_normalization,
    )

    network, bank = setting.network, setting.bank
    rows = np.arange(bank.rows)
    triplets = Methods(network, bank).one_triplet(Question(rows, _TRIPLET_SEED))
    directions = through_normalization(
        torch.from_numpy(bank.embeddings), torch.from_numpy(triplets)
    )
    images, _ = setting.sample()
    probe = network.forward(torch.from_numpy(images[0]))
    repeated = type(probe)(
        probe.feature_map.expand(bank.rows, -1, -1, -1),
        probe.embedding.expand(bank.rows, -1),
        probe.context,
    )
    grad_weights = network.pull_back(repeated, directions).numpy()
    grad_weights /= np.maximum(np.abs(grad_weights).max(axis=1, keepdims=True), 1e-20)
    means = [grad_weights[belongs == cluster].mean(axis=0) for cluster in range(count)]
    return np.stack(means).astype(np.float32)
