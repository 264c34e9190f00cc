"""A .pt2 file loads, and nothing in a doctored one runs."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import zipfile

import pytest
import torch

from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.exporter import export_model
from foldcam.export.models.program_file import load_program
from foldcam.export.models.program_operators import ATEN
from foldcam.export.models.spec import load_model
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.export.verification.images import images_to_verify
from foldcam.export.verification.run import verify_model
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

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
        ("target", "torch.ops.aten.from_file.default", "not an operator"),
        ("target", "torch.ops.aten.set_.source_Storage", "not an operator"),
        ("target", "torch.ops.aten.resize_.default", "not an operator"),
        ("target", "torch.ops.aten.rand.default", "not an operator"),
        ("target", "torch.ops.aten.bernoulli_.float", "not an operator"),
        ("target", "torch.ops.aten._unsafe_index.Tensor", "not an operator"),
        ("target", "torch.ops.aten.relu.out", "not an operator"),
        ("target", "torch.ops.aten.max.dim_max", "not an operator"),
        ("target", "torch.ops.aten.relu.none_such", "not an operator"),
        ("target", "torch.ops.higher_order.print", "not an operator"),
        ("target", "torch.ops.higher_order.call_torchbind", "not an operator"),
        ("target", "torch.ops.higher_order.triton_kernel_wrapper_mutation", "not an operator"),
        ("target", "torch.ops.prims.device_put.default", "not an operator"),
        ("target", "torch.sym_fresh_size", "not an operator"),
        ("target", "_operator.pow", "not an operator"),
        ("target", "_operator.lshift", "not an operator"),
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


EVIL = "x=open('executed.txt','w')"
GETATTR = 'c") or getattr(__import__("os"), "system")("touch executed.txt") or ("'


def _replaced(old, new):
    """An edit of the graph's document as a text."""

    def edit(document):
        text = json.dumps(document)
        assert old in text
        changed = json.loads(text.replace(old, new))
        document.clear()
        document.update(changed)

    return edit


def _part(document):
    """The node that runs a part of the graph."""
    (node,) = [
        node
        for node in document["graph_module"]["graph"]["nodes"]
        if node["target"] == "torch.ops.higher_order.wrap_with_set_grad_enabled"
    ]
    return node


def _with_operator(document):
    arg = {"as_operator": "torch.ops.aten.from_file.default"}
    _part(document)["inputs"].append({"name": "", "arg": arg, "kind": 1})


def _with_kwarg(document):
    """An argument by name at a part of the graph: torch writes both into Python."""
    _part(document)["inputs"].append(
        {"name": f"a={EVIL[2:]}, b", "arg": {"as_bool": False}, "kind": 2}
    )


def _with_key(document):
    tree = {"type": "builtins.dict", "context": json.dumps([EVIL]), "children_spec": []}
    spec = json.dumps([1, {"type": "builtins.tuple", "context": "null", "children_spec": [tree]}])
    _set_everywhere(document, "in_spec", spec)


class _WithoutGradient(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, image):
        with torch.no_grad():
            features = image * 2
        return self.inner(features)


@pytest.fixture(scope="module")
def with_a_part(networks, tmp_path_factory):
    """A program with a part that runs without gradients; not to be changed."""
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    return _save(_WithoutGradient(networks.make_tiny()).eval(), path, networks.SIZE)


def test_a_part_without_gradients_loads(with_a_part, networks):
    with zipfile.ZipFile(with_a_part) as archive:
        graph = next(name for name in archive.namelist() if name.endswith(GRAPH))
        assert b"wrap_with_set_grad_enabled" in archive.read(graph)
    assert load_program(with_a_part)(torch.zeros(1, 3, *networks.SIZE)).shape == (1, 4)


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (_replaced('"image"', f'"image, {EVIL}"'), "is no name"),
        (_replaced('"submod_', f'"{EVIL} or submod_'), "is no name"),
        (_with_kwarg, "is no name"),
        (_with_operator, "is not an operator"),
        (_replaced('"forward_arg_names": ["image"]', f'"forward_arg_names": ["{EVIL}"]'),
         "is no name"),
        (_replaced('"parameter_name": "', f'"parameter_name": {json.dumps(GETATTR)[:-1]}'),
         "is no name"),
        (_with_key, "plain keys"),
        (lambda d: d.update(range_constraints={"u99999999999": {"min_val": 1, "max_val": 2}}),
         "of no symbols"),
    ],
    ids=["value", "part", "argument", "operator", "arguments", "weight", "key", "symbol"],
)  # fmt: skip
def test_a_name_that_torch_would_write_into_python_is_refused_unloaded(
    edit, sentence, with_a_part, working_directory, never_loaded
):
    path = _doctored(with_a_part, working_directory / "x.pt2", edit)
    with pytest.raises(FoldcamError, match=sentence):
        load_program(path)
    assert not (working_directory / "executed.txt").exists()


def test_torch_itself_would_run_such_a_name(with_a_part, working_directory, networks):
    """Else the test above could not fail."""
    path = _doctored(with_a_part, working_directory / "x.pt2", _with_kwarg)
    # The part takes no such argument; by then it is too late, and torch leaves gradients off.
    with contextlib.suppress(TypeError), torch.enable_grad():
        torch.export.load(path).module(check_guards=False)(torch.zeros(2, 3, *networks.SIZE))
    assert (working_directory / "executed.txt").exists()


def test_guards_are_not_run(saved, working_directory, networks):
    path = _doctored(saved, working_directory / "x.pt2", lambda d: d.update(guards_code=[EVIL[2:]]))
    network = TorchNetwork(load_program(path), networks.SIZE)
    network.forward(torch.zeros(1, 3, *networks.SIZE))
    assert not (working_directory / "executed.txt").exists()


def test_torch_reads_what_was_looked_at(saved, tmp_path, networks):
    """zipfile finds the table of contents from the end, torch by its offset in the file."""
    evil = _doctored(
        saved, tmp_path / "evil.pt2",
        lambda d: _set_everywhere(d, "target", "torch.ops.aten.from_file.default"),
    )  # fmt: skip
    both = tmp_path / "both.pt2"
    both.write_bytes(evil.read_bytes() + saved.read_bytes())
    assert load_program(both)(torch.zeros(1, 3, *networks.SIZE)).shape == (1, 4)


def test_every_operator_on_the_list_only_computes():
    """None draws random numbers unless it says so, and none takes a text that could be a path."""
    texts = {
        "UPLO", "a", "approximate", "assert_msg", "b", "driver", "el", "equation", "indexing",
        "interpolation", "mode", "norm", "ord", "pad_mode", "padding", "reduce", "rounding_mode",
        "self", "separator", "side", "string", "substr",
    }  # fmt: skip
    # Dropout has a switch, which has to be off; attention and recurrence have a dropout of 0.
    random = ("dropout", "attention", "lstm", "gru", "rnn_")
    for name in ATEN:
        packet = getattr(torch.ops.aten, name, None)
        for form in [] if packet is None else packet.overloads():
            operator = getattr(packet, form)
            if torch.Tag.nondeterministic_seeded in operator.tags:
                assert any(word in name for word in random), operator
            for argument in operator._schema.arguments:
                if "str" in str(argument.type) and "Tensor" not in str(argument.type):
                    assert argument.name in texts, (operator, argument.name)
    assert "from_file" not in ATEN


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
