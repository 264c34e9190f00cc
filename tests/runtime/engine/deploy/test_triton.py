"""`runtime deploy --triton`: a model repository by the published schema."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import re
import shlex

import pytest
from google.protobuf import text_format

from foldcam.runtime.contract.schema import BankInput, LabelRun
from foldcam.runtime.engine.deploy.triton import (
    TritonOptions,
    build_command,
    config_text,
    quoted,
    write_repository,
)
from foldcam.runtime.system.errors import FoldcamError


def test_the_configuration_has_the_tensors_of_the_contract(tiny_model, tmp_path, parsed):
    folder = write_repository(tiny_model, tmp_path / "models", TritonOptions())
    config = parsed((folder / "config.pbtxt").read_text())
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", "onnxruntime", 8)
    (image,) = config.input
    assert (image.name, image.data_type, list(image.dims)) == ("image", 11, [3, 8, 8])
    outputs = {each.name: (each.data_type, list(each.dims)) for each in config.output}
    assert outputs == {
        "embedding": (11, [3]), "heatmap": (11, [1, 2, 2]), "neighbor": (8, [2]),
        "similarity": (11, [2]),
    }  # fmt: skip
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert [each.batch_size for each in config.model_warmup] == [1, 8]
    assert config.model_warmup[0].inputs[0].value.random_data
    (parameter,) = config.parameters
    assert parameter.key == "foldcam_sha256"
    assert parameter.value.string_value == hashlib.sha256(tiny_model.read_bytes()).hexdigest()


def test_a_number_per_image_has_one_dimension_that_the_model_does_not_see(outcome_with, parsed):
    config = parsed(config_text(outcome_with(), "prices", "0" * 64, TritonOptions()))
    (estimate,) = (each for each in config.output if each.name == "estimate")
    assert list(estimate.dims) == [1]
    assert estimate.HasField("reshape")
    assert not estimate.reshape.shape


def test_bytes_and_queries_are_inputs_as_the_contract_has_them(contract_with, parsed):
    contract = dataclasses.replace(contract_with(), input_type="uint8", query=True)
    config = parsed(config_text(contract, "m", "0" * 64, TritonOptions()))
    assert [(each.name, each.data_type, list(each.dims)) for each in config.input] == [
        ("image", 2, [8, 8, 3]), ("query", 11, [3])
    ]  # fmt: skip
    assert {each.key for each in config.model_warmup[0].inputs} == {"image", "query"}


def test_only_a_classifier_s_scores_have_a_label_file(contract_with, parsed):
    for scores, expected in ((None, set()), ("logits", {"embedding"})):
        contract = dataclasses.replace(contract_with(), scores=scores)
        config = parsed(config_text(contract, "m", "0" * 64, TritonOptions()))
        assert {each.name for each in config.output if each.label_filename} == expected


def test_labels_are_lines_by_the_number_of_their_row(make_model, contract_with, tmp_path):
    labels = (LabelRun("a\nb", 2), LabelRun("Eule", 1))
    model = make_model(contract=dataclasses.replace(contract_with(), labels=labels))
    folder = write_repository(model, tmp_path / "models", TritonOptions())
    assert (folder / "labels.txt").read_text().splitlines() == ["a\\nb", "a\\nb", "Eule"]


def test_the_model_is_there_with_its_bytes_and_nothing_is_half_written(tiny_model, tmp_path):
    repository = tmp_path / "models"
    folder = write_repository(tiny_model, repository, TritonOptions(name="birds"))
    assert folder == repository / "birds"
    assert (folder / "1" / "model.onnx").read_bytes() == tiny_model.read_bytes()
    assert [each.name for each in repository.iterdir()] == ["birds"]


def test_a_deployment_is_replaced_and_nothing_else_is(tiny_model, tmp_path):
    folder = write_repository(tiny_model, tmp_path / "models", TritonOptions())
    (folder / "1" / "model.plan").write_bytes(b"an old engine")
    write_repository(tiny_model, tmp_path / "models", TritonOptions(max_batch=4))
    assert not (folder / "1" / "model.plan").exists()
    assert "max_batch_size: 4" in (folder / "config.pbtxt").read_text()
    (folder / "README.md").unlink()
    with pytest.raises(FoldcamError, match="was not written by"):
        write_repository(tiny_model, tmp_path / "models", TritonOptions())
    assert (folder / "config.pbtxt").exists()


def test_a_failure_leaves_what_was_there(tiny_model, tmp_path, monkeypatch):
    folder = write_repository(tiny_model, tmp_path / "models", TritonOptions())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("foldcam.runtime.engine.deploy.folder.shutil.copyfile", full)
    with pytest.raises(FoldcamError, match="No space left"):
        write_repository(tiny_model, tmp_path / "models", TritonOptions(max_batch=2))
    assert "max_batch_size: 8" in (folder / "config.pbtxt").read_text()
    assert [each.name for each in (tmp_path / "models").iterdir()] == ["tiny"]


def test_weights_beside_the_model_go_with_it(make_model, tmp_path):
    import onnx

    path = make_model("big.onnx")
    model = onnx.load(path)
    onnx.save_model(
        model, path, save_as_external_data=True, location="big.data", size_threshold=0
    )  # fmt: skip
    folder = write_repository(path, tmp_path / "models", TritonOptions())
    assert (folder / "1" / "big.data").read_bytes() == (tmp_path / "big.data").read_bytes()
    onnx.load(folder / "1" / "model.onnx")


def test_a_bank_that_is_an_input_cannot_be_served(make_model, contract_with, tmp_path, monkeypatch):
    contract = dataclasses.replace(contract_with(), bank_input=BankInput(100), labels=())
    monkeypatch.setattr("foldcam.runtime.engine.deploy.triton.read_contract", lambda _: contract)
    with pytest.raises(FoldcamError, match="without --bank-input"):
        write_repository(tmp_path / "model.onnx", tmp_path / "models", TritonOptions())


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "ä", "x" * 200])
def test_a_name_that_cannot_be_served_is_refused(tiny_model, tmp_path, name):
    with pytest.raises(FoldcamError, match="give --name"):
        write_repository(tiny_model, tmp_path, TritonOptions(name=name or "."))


def test_the_engine_s_command_names_every_input_and_its_largest_batch(contract_with):
    contract = dataclasses.replace(contract_with(), query=True, precision="fp16")
    words = shlex.split(build_command(contract, "m", TritonOptions("tensorrt", max_batch=4)))
    assert words[0] == "trtexec"
    assert "--minShapes=image:1x3x8x8,query:1x3" in words
    assert "--maxShapes=image:4x3x8x8,query:4x3" in words
    assert words[-1] == "--stronglyTyped"
    plain = build_command(contract_with(), "m", TritonOptions("tensorrt"))
    assert "stronglyTyped" not in plain


def test_the_readme_of_an_engine_has_its_command(tiny_model, tmp_path):
    options = TritonOptions("tensorrt")
    readme = (write_repository(tiny_model, tmp_path, options) / "README.md").read_text()
    assert "--saveEngine=/models/tiny/1/model.plan" in readme
    assert 'backend: "tensorrt"' in (tmp_path / "tiny" / "config.pbtxt").read_text()
    assert re.search(r"SHA-256 of that file is [0-9a-f]{64}", readme)


@pytest.mark.parametrize("text", ['a "quoted" \\ one', "Grüße 鸟 🦉", "a\nb\x00c"])
def test_any_text_survives_the_text_format(text, parsed):
    assert parsed(f"name: {quoted(text)}").name == text


def test_the_real_schema_reads_it_too(tiny_estimator, tmp_path):
    """With Triton's own message, where its client is installed."""
    spec = importlib.util.find_spec("tritonclient")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("tritonclient is not installed")
    place = f"{next(iter(spec.submodule_search_locations))}/grpc/model_config_pb2.py"
    real = importlib.util.spec_from_file_location("model_config_pb2", place)
    module = importlib.util.module_from_spec(real)
    real.loader.exec_module(module)
    folder = write_repository(tiny_estimator, tmp_path, TritonOptions())
    config = text_format.Parse((folder / "config.pbtxt").read_text(), module.ModelConfig())
    assert config.name == "tiny"


def test_the_command_says_what_it_wrote(runtime, tiny_model, tmp_path):
    done = runtime("deploy", tiny_model, "--triton", tmp_path / "models", "--max-batch", "4")
    assert (done.returncode, done.stdout) == (0, f"wrote {tmp_path / 'models' / 'tiny'}\n")
    done = runtime("deploy", tmp_path / "none.onnx", "--triton", tmp_path / "models")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert runtime("deploy", tiny_model).returncode == 2
