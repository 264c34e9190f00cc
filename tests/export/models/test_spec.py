"""MODEL and --weights: what loads, and what is refused."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foldcam.export.models.spec import load_model, with_overrides
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

FACTORIES = """
from torch import nn
from foldcam.runtime.images.preprocess import Preprocessing
def make(): return nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
def prepared():
    module = make()
    module.preprocessing = Preprocessing(32, 16, mean=(0, 0, 0), std=(1, 1, 1))
    return module
def odd():
    module = make()
    module.preprocessing = "stretch"
    return module
def needs(size): return make()
def fails(): raise RuntimeError("no licence")
def leaves(): raise SystemExit(0)
def nothing(): return 3
ready = make().train()
"""


@pytest.fixture
def module_file(working_directory, request):
    """A module of its own name per test: Python keeps modules by name."""
    name = f"factories_{abs(hash(request.node.name))}"
    (working_directory / f"{name}.py").write_text(FACTORIES)
    return name


def test_a_factory_of_the_working_directory_is_called(module_file):
    loaded = load_model(f"{module_file}:make")
    assert isinstance(loaded.module, nn.Sequential)
    assert not loaded.module.training
    assert loaded.name == f"{module_file}:make"
    assert loaded.preprocessing == Preprocessing()
    assert loaded.weights == ""


def test_a_module_itself_is_taken_in_eval_mode(module_file):
    assert not load_model(f"{module_file}:ready").module.training


def test_a_module_may_say_how_its_images_are_made(module_file):
    assert load_model(f"{module_file}:prepared").preprocessing.width == 32


@pytest.mark.parametrize(
    ("attribute", "sentence"),
    [
        ("absent", "has no 'absent'"),
        ("needs", "calling it failed .*missing 1 required"),
        ("fails", "calling it failed .*no licence"),
        ("leaves", "calling it failed .*SystemExit"),
        ("nothing", "gave int, not a torch module"),
        ("odd", "not a foldcam.runtime.images.preprocess.Preprocessing"),
    ],
)
def test_a_factory_that_does_not_work_is_named(attribute, sentence, module_file):
    with pytest.raises(FoldcamError, match=sentence):
        load_model(f"{module_file}:{attribute}")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("import not_installed_anywhere", "no module 'not_installed_anywhere'"),
        ("1/0", "importing it failed .*ZeroDivisionError"),
        ("None.something", "importing it failed .*AttributeError"),
        ("def make(:", "importing it failed .*SyntaxError"),
        ("raise SystemExit(0)", "importing it failed .*SystemExit"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(source, sentence, working_directory, request):
    name = f"broken_{abs(hash(request.node.name))}"
    (working_directory / f"{name}.py").write_text(source)
    with pytest.raises(FoldcamError, match=sentence):
        load_model(f"{name}:make")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("no_such_module_here:make", "no module 'no_such_module_here'"),
        (":make", "failed"),
        (".relative:make", "failed"),
        ("resnet50", "is not known"),
        ("", "is not known"),
        ("absent.pt2", "cannot be read"),
    ],
)
def test_an_unknown_model_is_refused(spec, sentence, working_directory):
    with pytest.raises(FoldcamError, match=sentence):
        load_model(spec)


@pytest.mark.parametrize("kind", ["safetensors", "state dict", "checkpoint"])
def test_weights_are_loaded(kind, module_file, tmp_path):
    torch.manual_seed(7)
    state = load_model(f"{module_file}:make").module.state_dict()
    state["0.weight"] = torch.randn(2, 3, 1, 1)
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if kind == "checkpoint" else state, path)
    loaded = load_model(f"{module_file}:make", path)
    torch.testing.assert_close(loaded.module.state_dict()["0.weight"], state["0.weight"])
    assert loaded.weights == path.name


class _Payload:
    def __reduce__(self):
        return (open, ("executed.txt", "w"))


def test_a_pickle_with_code_is_refused_and_not_run(module_file, tmp_path):
    for name, write in (
        ("a.pt", torch.save),
        ("b.pth", lambda o, p: p.write_bytes(pickle.dumps(o))),
    ):
        write({"0.weight": _Payload()}, tmp_path / name)
        with pytest.raises(FoldcamError, match="neither safetensors nor a state dict") as caught:
            load_model(f"{module_file}:make", tmp_path / name)
        assert "\n" not in str(caught.value)
        assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "executed.txt").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: {**s, "0.weight": torch.zeros(5, 3, 1, 1)}, "do not fit .*size mismatch"),
        (lambda s: {k: v for k, v in s.items() if k != "0.bias"}, "missing 0.bias"),
        (lambda s: {**s, "extra": torch.zeros(1)}, "unexpected extra"),
        (lambda s: {f"mine.{k}": v for k, v in s.items()}, "and 3 more; unexpected mine"),
        (lambda s: {"module.other": torch.zeros(1)}, "and 3 more; unexpected module.other"),
        (lambda s: {}, "missing"),
        (lambda s: [1, 2], "holds no state dict"),
        (lambda s: {**s, "epoch": 3}, "holds no state dict"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, sentence, module_file, tmp_path):
    state = dict(load_model(f"{module_file}:make").module.state_dict())
    torch.save(change(state), tmp_path / "w.pt")
    with pytest.raises(FoldcamError, match=sentence) as caught:
        load_model(f"{module_file}:make", tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


def test_weights_that_are_missing_or_damaged_are_refused(module_file, tmp_path):
    with pytest.raises(FoldcamError, match="does not exist"):
        load_model(f"{module_file}:make", tmp_path / "none.safetensors")
    for name in ("empty.safetensors", "empty.pt"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(FoldcamError, match=r"neither safetensors nor|is not safetensors"):
            load_model(f"{module_file}:make", tmp_path / name)


def test_overrides_replace_what_they_name_alone():
    own = Preprocessing(mean=(0.1, 0.2, 0.3))
    assert with_overrides(own) == own
    changed = with_overrides(own, size="128x256", resize="crop", color="bgr", std="0.5")
    assert (changed.width, changed.height) == (128, 256)
    assert (changed.resize, changed.color) == ("crop", "bgr")
    assert (changed.mean, changed.std) == (own.mean, (0.5, 0.5, 0.5))
    assert with_overrides(own, size="96").height == 96
    assert with_overrides(own, mean="0,0.5,1").mean == (0, 0.5, 1)


@pytest.mark.parametrize(
    "flags",
    [
        {"size": "0"},
        {"size": "12x"},
        {"size": "1x2x3"},
        {"size": "-3"},
        {"size": "99999"},
        {"mean": "a"},
        {"mean": "1,2"},
        {"mean": "nan"},
        {"std": "0"},
        {"std": "1,-1,1"},
        {"std": "inf"},
    ],
)
def test_overrides_that_make_no_sense_are_refused(flags):
    with pytest.raises(FoldcamError, match=f"--{next(iter(flags))}"):
        with_overrides(Preprocessing(), **flags)
