"""`runtime deploy --deepstream`: a configuration of nvinfer by its published keys, and a probe."""

from __future__ import annotations

import configparser
import ctypes
import dataclasses
import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

from foldcam.runtime.backends import open_backend
from foldcam.runtime.contract.schema import BankInput
from foldcam.runtime.contract.unknown import UnknownRule
from foldcam.runtime.engine.deploy.deepstream import (
    DeepStreamOptions,
    config_text,
    write_deepstream,
)
from foldcam.runtime.system.errors import FoldcamError

# Of the group [property], as Gst-nvinfer's documentation and its parser of properties list them.
KEYS = frozenset(
    {"gie-unique-id", "process-mode", "interval", "labelfile-path", "gpu-id",
     "secondary-reinfer-interval", "output-tensor-meta", "enable-dla", "use-dla-core",
     "batch-size", "tensor-meta-pool-size", "network-mode", "model-engine-file",
     "int8-calib-file", "workspace-size", "output-blob-names", "is-classifier",
     "network-type", "force-implicit-batch-dim", "infer-dims", "output-io-formats",
     "layer-device-precision", "model-color-format", "net-scale-factor", "offsets",
     "mean-file", "maintain-aspect-ratio", "symmetric-padding", "scaling-filter",
     "scaling-compute-hw", "network-input-order", "input-tensor-from-meta", "custom-lib-path",
     "parse-bbox-func-name", "parse-bbox-instance-mask-func-name", "engine-create-func-name",
     "parse-classifier-func-name", "custom-network-config", "model-file", "proto-file",
     "uff-file", "uff-input-order", "input-dims", "uff-input-dims", "uff-input-blob-name",
     "tlt-encoded-model", "tlt-model-key", "onnx-file", "num-detected-classes",
     "enable-dbscan", "cluster-mode", "classifier-type", "classifier-threshold",
     "classifier-async-mode", "segmentation-threshold", "segmentation-output-order",
     "output-instance-mask", "input-object-min-width", "input-object-min-height",
     "input-object-max-width", "input-object-max-height", "operate-on-gie-id",
     "operate-on-class-ids", "filter-out-class-ids"}
)  # fmt: skip


def read(text: str) -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=True)
    parser.read_string(text)
    assert parser.sections() == ["property"]
    return dict(parser["property"])


def config(contract, **options) -> dict[str, str]:
    return read(config_text(contract, "model.onnx", DeepStreamOptions(**options)))


def test_every_key_is_one_of_nvinfer_s(contract_with):
    assert set(config(contract_with())) <= KEYS


def test_it_looks_at_objects_and_hands_on_every_output(contract_with):
    keys = config(contract_with(), max_batch=4)
    assert (keys["process-mode"], keys["network-type"], keys["output-tensor-meta"]) == (
        "2", "100", "1"
    )  # fmt: skip
    assert keys["output-blob-names"] == "embedding;heatmap;neighbor;similarity"
    assert (keys["batch-size"], keys["network-mode"]) == ("4", "0")
    assert config(dataclasses.replace(contract_with(), precision="fp16"))["network-mode"] == "2"


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_nvinfer_s_formula_makes_what_the_contract_says(contract_with, color):
    contract = contract_with(mean=(0.4, 0.5, 0.6), std=(0.25, 0.25, 0.25), color=color)
    keys = config(contract)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    channels = pixels if keys["model-color-format"] == "0" else pixels[..., ::-1]
    offsets = np.array([float(each) for each in keys["offsets"].split(";")])
    made = float(keys["net-scale-factor"]) * (channels - offsets)
    np.testing.assert_allclose(
        made.transpose(2, 0, 1), contract.preprocessing.normalized(pixels), atol=1e-5
    )


def test_channels_that_are_divided_by_different_numbers_are_refused(contract_with):
    with pytest.raises(FoldcamError, match=r"0\.229, 0\.224, 0\.225.*--input uint8"):
        config(contract_with(std=(0.229, 0.224, 0.225)))


def test_a_model_of_bytes_normalises_by_itself(contract_with):
    contract = dataclasses.replace(
        contract_with(std=(0.229, 0.224, 0.225), color="bgr"), input_type="uint8"
    )
    keys = config(contract)
    assert (keys["net-scale-factor"], keys["offsets"]) == ("1", "0;0;0")
    assert (keys["network-input-order"], keys["model-color-format"]) == ("1", "0")


def test_its_bytes_as_floats_give_the_same_answers(make_model, contract_with, tmp_path):
    import onnx
    import onnxruntime

    path = make_model(contract=dataclasses.replace(contract_with(), input_type="uint8"))
    folder, _ = write_deepstream(path, tmp_path / "out", DeepStreamOptions())
    onnx.checker.check_model(onnx.load(folder / "model.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(folder / "model.onnx", None)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    names = [each.name for each in session.get_outputs()]
    outputs = session.run(names, {"image": images.astype(np.float32)})
    expected = open_backend(path, "cpu").run(images)
    for name, array in zip(names, outputs, strict=True):
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize(
    ("resize", "keys", "said"),
    [("stretch", "0", "filter"), ("crop", "0", "no centre crop"), ("letterbox", "1", "black")],
)
def test_what_differs_from_foldcam_s_own_pictures_is_said(
    make_model, contract_with, tmp_path, resize, keys, said
):
    contract = contract_with(resize=resize)
    assert config(contract)["maintain-aspect-ratio"] == keys
    assert config(contract)["symmetric-padding"] == keys
    folder, note = write_deepstream(make_model(contract=contract), tmp_path, DeepStreamOptions())
    assert said in note
    assert note in (folder / "README.md").read_text()


@pytest.mark.parametrize("changes", [{"query": True}, {"bank_input": BankInput(9), "labels": ()}])
def test_further_inputs_are_refused(contract_with, tmp_path, monkeypatch, changes):
    contract = dataclasses.replace(contract_with(), **changes)
    monkeypatch.setattr(
        "foldcam.runtime.engine.deploy.deepstream.read_contract", lambda _: contract
    )
    with pytest.raises(FoldcamError, match="without --bank-input and --query"):
        write_deepstream(tmp_path / "m.onnx", tmp_path, DeepStreamOptions())


def probe_of(folder):
    """The probe as it lies in the folder, with what it needs of pyds."""
    spec = importlib.util.spec_from_file_location("foldcam_probe", folder / "foldcam_probe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    same = SimpleNamespace(cast=lambda data: data)
    return module, SimpleNamespace(
        NvDsFrameMeta=same, NvDsObjectMeta=same, NvDsUserMeta=same, NvDsInferTensorMeta=same,
        NvDsMetaType=SimpleNamespace(NVDSINFER_TENSOR_OUTPUT_META=12),
        get_nvds_LayerInfo=lambda tensors, index: tensors.layers[index],
        get_ptr=lambda buffer: ctypes.addressof(buffer),
    )  # fmt: skip


class Link:
    """A linked list as pyds has it: its end raises StopIteration."""

    def __init__(self, data, *more) -> None:
        self.data = data
        self._more = more

    @property
    def next(self):
        if not self._more:
            raise StopIteration
        return Link(*self._more)


def layers(outputs) -> list[SimpleNamespace]:
    made = []
    for name, array in outputs.items():
        kind = ctypes.c_int32 if array.dtype == np.int32 else ctypes.c_float
        buffer = (kind * array.size)(*array.ravel().tolist())
        made.append(SimpleNamespace(layerName=name, buffer=buffer))
    return made


def batch_of(outputs, unique_id=2, kind=12):
    tensors = SimpleNamespace(
        unique_id=unique_id, layers=layers(outputs), num_output_layers=len(outputs)
    )
    user = SimpleNamespace(
        base_meta=SimpleNamespace(meta_type=kind), user_meta_data=tensors
    )  # fmt: skip
    other = SimpleNamespace(base_meta=SimpleNamespace(meta_type=3), user_meta_data=None)
    thing = SimpleNamespace(obj_user_meta_list=Link(other, user), object_id=7)
    bare = SimpleNamespace(obj_user_meta_list=None, object_id=8)
    frame = SimpleNamespace(obj_meta_list=Link(bare, thing), frame_num=3)
    return SimpleNamespace(frame_meta_list=Link(frame))


@pytest.mark.parametrize(("threshold", "unknown"), [(None, None), (0.99999, True), (0.1, False)])
def test_the_probe_reads_label_similarity_and_map(
    make_model, explained, tmp_path, threshold, unknown
):
    rule = None if threshold is None else UnknownRule("similarity", threshold, "0" * 64, 0.9)
    contract = dataclasses.replace(explained("contribution"), unknown=rule)
    path = make_model(contract=contract)
    folder, _ = write_deepstream(path, tmp_path, DeepStreamOptions(name="birds"))
    image = np.zeros((1, 3, 8, 8), np.float32)
    image[0, 2] = 0.8
    image[0, 0] = 0.1
    expected = open_backend(path, "cpu").run(image)
    module, pyds = probe_of(folder)
    batch = batch_of(expected)
    pyds.gst_buffer_get_nvds_batch_meta = lambda _: batch
    answers = module.Answers(pyds=pyds)
    ((frame, thing, answer),) = answers.of(0)
    assert (frame.frame_num, thing.object_id, answer["label"]) == (3, 7, "blue")
    assert answer["similarity"] == pytest.approx(expected["similarity"][0])
    np.testing.assert_array_equal(answer["heatmap"], expected["heatmap"][0, 0])
    np.testing.assert_array_equal(answer["contribution"], expected["contribution"][0, 0])
    np.testing.assert_array_equal(answer["embedding"], expected["embedding"][0])
    assert answer.get("unknown") is unknown


def test_the_probe_passes_over_what_other_models_say(tiny_model, tmp_path):
    folder, _ = write_deepstream(tiny_model, tmp_path, DeepStreamOptions())
    module, pyds = probe_of(folder)
    expected = open_backend(tiny_model, "cpu").run(np.ones((1, 3, 8, 8), np.float32))
    pyds.gst_buffer_get_nvds_batch_meta = lambda _: batch_of(expected, unique_id=5)
    assert list(module.Answers(pyds=pyds).of(0)) == []


def test_an_estimate_has_no_label(tiny_estimator, tmp_path):
    folder, _ = write_deepstream(tiny_estimator, tmp_path, DeepStreamOptions())
    assert not (folder / "labels.txt").exists()
    module, pyds = probe_of(folder)
    expected = open_backend(tiny_estimator, "cpu").run(np.ones((1, 3, 8, 8), np.float32))
    pyds.gst_buffer_get_nvds_batch_meta = lambda _: batch_of(expected)
    ((_, _, answer),) = module.Answers(pyds=pyds).of(0)
    assert float(answer["estimate"]) == pytest.approx(expected["estimate"][0])
    assert "label" not in answer


def test_the_command_writes_both_and_says_what_differs(runtime, tiny_model, tmp_path):
    done = runtime(
        "deploy", tiny_model, "--triton", tmp_path / "a", "--deepstream", tmp_path / "b"
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout == f"wrote {tmp_path}/a/tiny\nwrote {tmp_path}/b/tiny\n"
    assert done.stderr.startswith("note: nvinfer")
