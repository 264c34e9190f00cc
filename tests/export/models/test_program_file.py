"""A .pt2 file loads, and nothing in a doctored one runs."""

from __future__ import annotations

import io
import json
import pickle
import zipfile

import pytest
import torch

from export.datasets import load_dataset
from export.exporter import export_model
from export.models.program_file import load_program
from export.models.spec import load_model
from export.objectives.directions import parse_objective
from export.torch_networks.cut import TorchNetwork
from export.verification.images import images_to_verify
from export.verification.run import verify_model
from runtime.errors import FoldcamError
from runtime.onnx_file import read_contract
from runtime.preprocess import Preprocessing

GRAPH, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"


class _Payload:
    def __reduce__(self):
        return (open, ("executed.txt", "w"))


def _save(module, path, size, batch="auto"):
    shapes = ({0: torch.export.Dim.AUTO},) if batch == "auto" else None
    program = torch.export.export(module, (torch.zeros(2, 3, *size),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def saved(networks, tmp_path_factory):
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    return _save(networks.make_tiny().eval(), path, networks.SIZE)


@pytest.fixture
def never_loaded(monkeypatch):
    """Fails the test where torch is asked to load the file."""

    def load(*_arguments, **_settings):
        pytest.fail("torch.export.load was called")

    monkeypatch.setattr(torch.export, "load", load)


def _doctored(saved, path, edit=None, extra=(), name=GRAPH):
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            content = source.read(info)
            if edit is not None and info.filename.endswith(name):
                document = json.loads(content)
                edit(document)
                content = json.dumps(document).encode()
            target.writestr(info.filename, content)
        for entry, content in extra:
            target.writestr(entry, content)
    return path


def test_a_saved_program_gives_the_same_embedding(saved, networks):
    images = torch.randn(3, 3, *networks.SIZE)
    module = networks.make_tiny().eval()
    torch.testing.assert_close(load_program(saved)(images), module(images))
    network = TorchNetwork(load_model(str(saved)).module, networks.SIZE)
    torch.testing.assert_close(network.forward(images).embedding, module(images))
    assert network.head_before_normalization
    assert network.normalized
    assert network.feature_map_shape == (6, 5, 7)


def test_a_copy_made_by_another_zip_writer_still_loads(saved, tmp_path, networks):
    copy = _doctored(saved, tmp_path / "net.pt2")
    assert load_program(copy)(torch.zeros(1, 3, *networks.SIZE)).shape == (1, 4)


def test_a_program_goes_through_the_whole_export(saved, shared_photos, networks, tmp_path):
    loaded = load_model(str(saved))
    recipe = Preprocessing(networks.SIZE[1], networks.SIZE[0])
    out = tmp_path / "model.onnx"
    report = export_model(
        loaded,
        load_dataset(shared_photos),
        out,
        parse_objective("all-triplets"),
        preprocessing=recipe,
    )
    contract = read_contract(out)
    assert contract.origin.network == "net.pt2"
    assert contract.normalized
    assert report.contract == contract
    images = images_to_verify(load_dataset(shared_photos), contract, 12)
    assert verify_model(out, loaded.network(contract.layer, networks.SIZE), images).passed


def test_weights_beside_a_program_are_refused(saved, tmp_path):
    with pytest.raises(FoldcamError, match="carries its weights"):
        load_model(str(saved), tmp_path / "w.safetensors")


def test_a_program_for_one_batch_size_is_taken_where_nothing_depends_on_it(networks, tmp_path):
    path = _save(networks.make_tiny().eval(), tmp_path / "two.pt2", networks.SIZE, batch="two")
    network = TorchNetwork(load_program(path), networks.SIZE)
    images = torch.randn(5, 3, *networks.SIZE)
    expected = networks.make_tiny().eval()(images)
    torch.testing.assert_close(network.forward(images).embedding, expected)


def test_a_program_in_training_mode_is_refused(networks, tmp_path):
    path = _save(networks.Training(), tmp_path / "train.pt2", networks.SIZE)
    with pytest.raises(FoldcamError, match="training mode"):
        load_program(path)


def _set_everywhere(document, key, value):
    if isinstance(document, dict):
        for name, inner in document.items():
            if name == key:
                document[name] = value
            else:
                _set_everywhere(inner, key, value)
    elif isinstance(document, list):
        for inner in document:
            _set_everywhere(inner, key, value)


def _tree(kind, context):
    return json.dumps([1, {"type": kind, "context": context, "children_spec": []}])


ENUM = '{"__enum__": true, "fqn": "evil:Kind", "name": "A"}'
FACTORY = {
    "default_factory_module": "evil",
    "default_factory_name": "make",
    "dict_context": [],
}


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("use_pickle", True, "pickled tensors"),
        ("use_pickle", 1, "pickled tensors"),
        ("use_pickle", "false", "pickled tensors"),
        ("target", "os.system", "not an operator"),
        ("target", "torch.load", "not an operator"),
        ("target", "torch.ops.evil.run.default", "not an operator"),
        ("target", "torch.ops.aten.relu.default.__class__.mro", "not an operator"),
        ("target", "_operator.methodcaller", "not an operator"),
        ("target", "_operator.call", "not an operator"),
        ("target", "math.factorial", "not an operator"),
        ("target", "#evil:run", "not an operator"),
        ("expr_str", "__import__('os').system('id')", "not an expression"),
        ("expr_str", "s0.__class__", "not an expression"),
        ("expr_str", "exec('1')", "not an expression"),
        ("expr_str", "open", "not an expression"),
        ("expr_str", "Symbol('s0', positive=open)", "not an expression"),
        ("expr_str", "9**9**9**9", "not an expression"),
        ("expr_str", "9**(9**9)", "not an expression"),
        ("expr_str", "2**99999999999", "not an expression"),
        ("expr_str", ["s0"], "not an expression"),
        ("in_spec", _tree("collections.defaultdict", FACTORY), "could import"),
        ("in_spec", _tree("builtins.dict", ENUM), "could import"),
        (
            "out_spec",
            _tree("builtins.dict", ENUM.replace("__enum", "\\u005f_enum")),
            "could import",
        ),
        ("out_spec", _tree("mine.Output", "null"), "could import"),
        ("out_spec", "not json", "could import"),
    ],
)
def test_a_graph_that_could_run_code_is_refused_unloaded(
    key, value, sentence, saved, tmp_path, never_loaded
):
    name = WEIGHTS if key == "use_pickle" else GRAPH
    path = _doctored(saved, tmp_path / "x.pt2", lambda d: _set_everywhere(d, key, value), name=name)
    before = json.dumps(value) if isinstance(value, str) else str(value).lower()
    with zipfile.ZipFile(path) as archive:
        content = b"".join(archive.read(n) for n in archive.namelist() if n.endswith(name))
    assert before.encode() in content or isinstance(value, list)  # the edit took place
    with pytest.raises(FoldcamError, match=sentence):
        load_program(path)


def _tensors(value):
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("entry", "content", "sentence"),
    [
        ("net/data/weights/model.pt", _tensors({"a": _Payload()}), "could be a pickle"),
        ("net/data/weights/weight_9.pt", pickle.dumps(_Payload()), "could be a pickle"),
        ("net/data/constants/custom_obj_0", pickle.dumps(_Payload()), "could be a pickle"),
        ("net/data/constants/opaque_obj_0", pickle.dumps(_Payload()), "could be a pickle"),
        ("net/data/aotinductor/model/wrapper.so", b"\x7fELF", "could be a pickle"),
        ("net/code/__torch__.py", b"import os", "could be a pickle"),
        ("net/models/../../evil.py", b"", "could be a pickle"),
        ("loose.pkl", pickle.dumps(_Payload()), "could be a pickle"),
        ("net/models/other.json", b"{", "not JSON"),
        ("net/models/other.json", b"[" * 200_000, "not JSON"),
        ("net/data/sample_inputs/other.pt", _tensors([_Payload()]), "sample inputs hold pickled"),
    ],
)
def test_an_entry_that_could_run_code_is_refused_unloaded(
    entry, content, sentence, saved, working_directory, never_loaded
):
    path = _doctored(saved, working_directory / "x.pt2", extra=[(entry, content)])
    with pytest.raises(FoldcamError, match=sentence):
        load_program(path)
    assert not (working_directory / "executed.txt").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("change", [str, str.upper])
def test_a_second_entry_of_the_same_name_is_refused_unloaded(change, saved, tmp_path, never_loaded):
    """zipfile reads the last one, torch another one."""
    with zipfile.ZipFile(saved) as archive:
        name = next(n for n in archive.namelist() if n.endswith(GRAPH))
        content = archive.read(name)
    path = _doctored(saved, tmp_path / "x.pt2", extra=[(change(name), content)])
    with pytest.raises(FoldcamError, match="two entries of one name"):
        load_program(path)


def test_a_bomb_is_refused_unread(saved, tmp_path, never_loaded):
    path = tmp_path / "x.pt2"
    path.write_bytes(saved.read_bytes())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/extra/zeros", bytes(50_000_000))
    assert path.stat().st_size < 1_000_000
    with pytest.raises(FoldcamError, match="compressed"):
        load_program(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello" * 100, pickle.dumps([1])])
def test_what_is_no_archive_is_refused_unloaded(content, tmp_path, never_loaded):
    (tmp_path / "x.pt2").write_bytes(content)
    with pytest.raises(FoldcamError, match=r"not a .pt2 exported program"):
        load_program(tmp_path / "x.pt2")


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_a_cut_off_program_is_refused_unloaded(share, saved, tmp_path, never_loaded):
    data = saved.read_bytes()
    (tmp_path / "x.pt2").write_bytes(data[: int(len(data) * share)])
    # The last archive in what is left may be the one of the sample inputs.
    with pytest.raises(FoldcamError, match=r"not a .pt2 exported program|could be a pickle"):
        load_program(tmp_path / "x.pt2")


def test_a_program_with_lost_weights_is_one_sentence(saved, tmp_path):
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(tmp_path / "x.pt2", "w") as target:
        for info in source.infolist():
            if not info.filename.endswith("weight_0"):
                target.writestr(info.filename, source.read(info))
    with pytest.raises(FoldcamError, match="cannot be loaded by torch") as caught:
        load_program(tmp_path / "x.pt2")
    assert "\n" not in str(caught.value)
