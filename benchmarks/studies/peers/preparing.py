"""The network in every form, and what is asked of each test image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.evaluation.graphs import (
    NetworkChoice,
    chosen_network,
    plain_graph,
    save_graph,
)
from foldcam.benchmarks.evaluation.interleaved import open_session
from foldcam.benchmarks.evaluation.localization.methods import Methods, Question
from foldcam.benchmarks.evaluation.localization.study import split_samples
from foldcam.benchmarks.evaluation.localization.subjects import Subjects, load_subjects
from foldcam.benchmarks.studies.peers.peer import Asked
from foldcam.benchmarks.studies.peers.quality import Questions
from foldcam.benchmarks.studies.peers.setting import Setting
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import Dataset
from foldcam.export.exporting.exporter import export_model
from foldcam.runtime.contract.schema import EMBEDDING, IMAGE, NEIGHBOR

_TIMED_IMAGES = 16


def prepared(
    data: Path,
    out: Path,
    choice: NetworkChoice,
    explained: int | None,
    seed: int,
    progress: Progress,
) -> tuple[Setting, Questions, dict[str, Any]]:
    """Train or load the network, fold it, and ask the folded graph about every test image.

    Args:
        explained: test images that are explained; None takes all.
        progress: called with `(stage, done, total)`.
    """
    training, testing = split_samples(data, seed)
    file = out / "net.safetensors"
    loaded = chosen_network(choice, training, file, progress)
    recipe = choice.preprocessing or loaded.preprocessing
    setting = Setting(out, choice.model or str(file), choice.weights if choice.model else None)
    dataset = Dataset(data.resolve().name, "train", tuple(training))
    export_model(
        loaded,
        dataset,
        setting.folded,
        parse_objective("all-triplets"),
        preprocessing=recipe,
        progress=progress,
    )
    model = setting.network.to_onnx()
    save_graph(model, setting.embedder)
    save_graph(plain_graph(model), setting.plain)
    test = load_subjects(testing, recipe)
    asked, recall = _questions(setting, test, seed)
    count = min(explained or len(test), len(test))
    questions = Questions(test, asked, recipe, seed, count)
    images = [questions.image(n) for n in range(min(_TIMED_IMAGES, len(test)))]
    setting.keep_sample(images, asked[0])
    facts = {
        "data": data.resolve().name,
        "images": {"train": len(training), "test": len(test), "explained": count},
        "network": choice.title,
        "training_epochs": None if choice.model else choice.training.epochs,
        "input": [recipe.width, recipe.height],
        "feature_map": list(setting.network.feature_map_shape),
        "embedding_size": setting.network.embedding_size,
        "recall_at_1": round(recall, 4),
    }
    return setting, questions, facts


def _questions(setting: Setting, test: Subjects, seed: int) -> tuple[list[Asked], float]:
    """What is asked of each test image: its row, as the folded graph returns it."""
    session = open_session(setting.folded)
    recipe, bank = setting.contract.preprocessing, setting.bank
    rows, embeddings = [], []
    for image in test.resized:
        given = {IMAGE: recipe.normalized(image[None])}
        neighbor, embedding = session.run([NEIGHBOR, EMBEDDING], given)
        rows.append(int(neighbor[0, 0]))
        embeddings.append(embedding[0] / np.linalg.norm(embedding[0]))
    methods, numbers = Methods(setting.network, bank), np.asarray(rows, np.int64)
    triplets = methods.one_triplet(Question(numbers, seed))
    everything = methods.direction(numbers)
    asked = [
        Asked(
            row=row,
            embedding=embeddings[n].astype(np.float32),
            one_triplet=triplets[n],
            similarity=bank.embeddings[row],
            all_triplets=np.ascontiguousarray(everything[n], np.float32),
        )
        for n, row in enumerate(rows)
    ]
    right = np.asarray(bank.row_labels())[numbers] == np.asarray(test.labels)
    return asked, float(right.mean())
