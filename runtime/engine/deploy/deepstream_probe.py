"""Reads a folded model's answers in DeepStream: label, similarity and map of each object.

`runtime deploy --deepstream` copies this file beside the nvinfer configuration; it stands alone and
needs numpy and DeepStream's Python bindings (pyds). Attach it behind the model's nvinfer:

    from foldcam_probe import Answers
    answers = Answers()

    def probe(pad, info, _):
        for frame, thing, answer in answers.of(hash(info.get_buffer())):
            print(frame.frame_num, thing.object_id, answer["label"], answer["similarity"])
        return Gst.PadProbeReturn.OK
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

_TYPES: dict[str, Any] = {"float32": ctypes.c_float, "int32": ctypes.c_int32}


class Answers:
    """The answers in the metadata of a batch.

    Args:
        folder: with `foldcam.json` and, for a model of labels, `labels.txt`.
        pyds: the bindings, if they are not to be imported.
    """

    def __init__(self, folder: str | Path | None = None, pyds: Any = None) -> None:
        folder = Path(__file__).parent if folder is None else Path(folder)
        self._pyds = pyds or import_module("pyds")
        self._about = json.loads((folder / "foldcam.json").read_text(encoding="utf-8"))
        labels = folder / "labels.txt"
        self._labels = labels.read_text(encoding="utf-8").splitlines() if labels.exists() else []

    def of(self, buffer: int) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
        """Every object that the model has looked at.

        Args:
            buffer: `hash(gst_buffer)`.

        Yields:
            `(frame_meta, object_meta, answer)`. The answer has the model's outputs by name as
            arrays without a batch, such as `embedding` and `heatmap [h, w]`, and of a model of
            labels `label`, `similarity`, and `unknown` where it has a rule.
        """
        pyds = self._pyds
        batch = pyds.gst_buffer_get_nvds_batch_meta(buffer)
        for frame in _each(batch.frame_meta_list, pyds.NvDsFrameMeta.cast):
            for thing in _each(frame.obj_meta_list, pyds.NvDsObjectMeta.cast):
                for user in _each(thing.obj_user_meta_list, pyds.NvDsUserMeta.cast):
                    if user.base_meta.meta_type != pyds.NvDsMetaType.NVDSINFER_TENSOR_OUTPUT_META:
                        continue
                    tensors = pyds.NvDsInferTensorMeta.cast(user.user_meta_data)
                    if tensors.unique_id == self._about["unique_id"]:
                        yield frame, thing, self._answer(tensors)

    def _answer(self, tensors: Any) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        for index in range(tensors.num_output_layers):
            layer = self._pyds.get_nvds_LayerInfo(tensors, index)
            known = self._about["outputs"].get(layer.layerName)
            if known is not None:
                answer[layer.layerName] = self._array(layer.buffer, *known)
        for name in ("heatmap", "heatmap_lower", "contribution", "contrast"):
            if name in answer:
                answer[name] = answer[name][0]
        if self._labels:
            answer["label"] = self._labels[int(answer["neighbor"][0])]
            answer["similarity"] = answer["similarity"].tolist()
            self._decide(answer)
        return answer

    def _decide(self, answer: dict[str, Any]) -> None:
        rule = self._about["unknown"]
        if rule is None:
            return
        score = answer["similarity"][0]
        if rule["score"] == "whitened":
            score = float(answer["known_score"])
        elif rule["score"] == "similarity_and_margin":
            score = 2.0 * score - float(answer["runner_up_similarity"])
        answer["unknown"] = not score >= rule["threshold"]

    def _array(self, buffer: Any, dtype: str, shape: list[int]) -> Any:
        """A copy: the buffer is nvinfer's, and is used again."""
        pointer = ctypes.cast(self._pyds.get_ptr(buffer), ctypes.POINTER(_TYPES[dtype]))
        count = int(np.prod(shape, dtype=np.int64))
        return np.ctypeslib.as_array(pointer, shape=(count,)).reshape(shape).copy()


def _each(link: Any, cast: Callable[[Any], Any]) -> Iterator[Any]:
    """The members of a linked list of DeepStream's."""
    while link is not None:
        yield cast(link.data)
        try:
            link = link.next
        except StopIteration:
            return
