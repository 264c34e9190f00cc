"""The peers on a world where the right answers are known: coloured squares."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from foldcam.benchmarks.evaluation.graphs import NetworkChoice
from foldcam.benchmarks.evaluation.localization.subjects import Subjects
from foldcam.benchmarks.studies.peers import gradcam, study
from foldcam.benchmarks.studies.peers import peer as choice
from foldcam.benchmarks.studies.peers.gradcam import Halves, score_cam_heat
from foldcam.benchmarks.studies.peers.gradcam import heat_of as gradcam_heat
from foldcam.benchmarks.studies.peers.measuring import Questions, scores_of
from foldcam.benchmarks.studies.peers.memory import measured
from foldcam.benchmarks.studies.peers.openvino import Worker, for_reciprocam, openvino_peers
from foldcam.benchmarks.studies.peers.openvino_worker import heat_of
from foldcam.benchmarks.studies.peers.peer import Asked, Setting
from foldcam.benchmarks.studies.peers.report import (
    markdown_table,
    plot,
    readme_table,
    summary,
    text_table,
    titles,
)
from foldcam.benchmarks.studies.peers.study import PeersOptions, run_peers
from foldcam.export.networks.torch_cut import TorchNetwork
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

RECIPE = Preprocessing(width=32, height=32, mean=(0.0,) * 3, std=(1.0,) * 3)
TORCH_WAYS = {
    f"gradcam_{reach}{mode}" for reach in ("full", "map", "head") for mode in ("", "_channels_last")
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("peers")


@pytest.fixture(scope="module")
def document(squares: Path, out: Path) -> dict[str, Any]:
    options = PeersOptions(
        network=NetworkChoice("overhead_squares:make", preprocessing=RECIPE),
        rounds=5, score_cam=2, memory=False, draws=40,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(squares)
        # Compiling takes minutes, and is tried by the command itself.
        patch.setattr(choice, "can_compile", lambda: False)
        patch.setattr(study, "can_compile", lambda: False)
        return run_peers(Path("squares.csv"), out, options, lambda *_: None)


def test_every_way_is_timed_in_the_same_rounds(document: dict[str, Any]) -> None:
    methods = document["methods"]
    assert {"plain", "foldcam", "torch_plain", "kmeans_outside_graph", "score_cam"} < set(methods)
    assert set(methods) > TORCH_WAYS
    for name, row in methods.items():
        assert row["milliseconds"] > 0
        assert len(row["samples_milliseconds"]) == (1 if name == "score_cam" else 5)
    assert methods["plain"]["ratio_to_plain"] == 1


def test_every_gradcam_in_torch_is_called_one_and_nothing_else_is(document: dict[str, Any]) -> None:
    for name, row in document["methods"].items():
        in_torch = row["library"].startswith(("torch ", "torchcam", "grad-cam"))
        plain = name in ("score_cam", "aggregated_backprop") or name.startswith("torch_plain")
        assert ("gradcam" in name) == (in_torch and not plain), name


def test_foldcam_points_at_the_colour_that_is_asked_for(document: dict[str, Any]) -> None:
    row = document["methods"]["foldcam"]
    assert row["grid_pointing"] > 0.95
    assert row["pixel_ap"] > 0.95
    assert document["methods"]["plain"]["grid_pointing"] is None


def test_how_far_the_gradient_goes_changes_the_time_and_not_the_map(
    document: dict[str, Any],
) -> None:
    for name in TORCH_WAYS - {"gradcam_head"}:
        row = document["methods"][name]
        assert row["same_maps_as"] == "gradcam_head"
        assert row["largest_map_difference"] < 1e-4
        assert row["grid_pointing"] == document["methods"]["gradcam_head"]["grid_pointing"]


def test_the_reference_gives_the_maps_that_transfer_must_equal(document: dict[str, Any]) -> None:
    difference = document["against_foldcam"]["aggregated_backprop"]["grid_pointing"]
    assert abs(difference["mean"]) < 1e-3


def test_the_summary_names_the_fastest_gradcam(document: dict[str, Any]) -> None:
    found = document["summary"]
    times = {n: r["milliseconds"] for n, r in document["methods"].items() if "gradcam" in n}
    # Stored times are rounded, and the fastest are close.
    assert times[found["fastest_gradcam"]] == pytest.approx(min(times.values()), abs=2e-3)
    assert found["speedup"]["low"] <= found["speedup"]["mean"] <= found["speedup"]["high"]
    assert found["fastest_gradcam"] in summary(document)


def test_what_was_not_measured_is_said(document: dict[str, Any]) -> None:
    notes = "\n".join(document["notes"])
    assert "openvino_xai: not measured; --openvino VENV" in notes
    assert "torch.compile: not measured; it needs a C++ compiler" in notes


def test_the_result_is_written_and_shown(document: dict[str, Any], out: Path) -> None:
    assert json.loads((out / "peers.json").read_text()) == json.loads(json.dumps(document))
    assert len(markdown_table(document).splitlines()) == 2 + len(document["methods"])
    assert "**foldcam**" in readme_table(document)
    assert "gradcam_head_channels_last" not in readme_table(document) or (
        document["summary"]["fastest_gradcam"] == "gradcam_head_channels_last"
    )
    assert "note: openvino_xai" in text_table(document)
    assert len(titles(document).splitlines()) == 2 + len(document["methods"])
    plot(document, out / "peers.png")
    assert (out / "peers.png").read_bytes().startswith(b"\x89PNG")


def test_maps_that_were_scored_are_not_made_again(document: dict[str, Any], out: Path) -> None:
    assert document
    kept = {path.name.partition("-")[2] for path in (out / "maps").glob("*.npz")}
    assert {"foldcam.npz", "gradcam_head.npz", "score_cam.npz"} <= kept
    # Those that share the maps of another have none of their own.
    assert "gradcam_full.npz" not in kept
    (path,) = (out / "maps").glob("*-foldcam.npz")
    recipe = Setting(out, "overhead_squares:make").contract.preprocessing
    boxes = np.array([[0.0, 0.0, 16.0, 16.0]] * 9)
    blank = np.zeros((32, 32, 3), np.uint8)
    subjects = Subjects((blank,) * 9, (blank,) * 9, tuple("aabbccaab"), boxes, ())
    questions = Questions(subjects, [asked()] * 9, recipe, 0, 9)

    def explain(*_: Any) -> Any:
        raise AssertionError("what is kept is taken")

    assert 0 <= scores_of(explain, questions, path).intervals(20)["pixel_ap"].mean <= 1


def test_memory_is_measured_in_a_process_of_its_own(
    document: dict[str, Any], out: Path, squares: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert document
    setting = Setting(out, "overhead_squares:make")
    monkeypatch.chdir(squares)
    found = measured(setting, "foldcam")
    assert found is not None
    assert 0 < found["loaded"] <= found["peak"]
    assert measured(setting, "no such peer") is None


def test_gradcam_goes_through_the_normalisation_as_torch_does(
    document: dict[str, Any], out: Path, squares: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert document
    monkeypatch.chdir(squares)
    setting = Setting(out, "overhead_squares:make")
    images, question = setting.sample()
    image = torch.from_numpy(images[0])

    def signed_sum(network: TorchNetwork) -> float:
        feature_map = network.forward(image).feature_map.requires_grad_(True)
        embedding = network.head_module(feature_map)[1]
        score = (embedding * torch.from_numpy(question.all_triplets)).sum()
        (gradient,) = torch.autograd.grad(score, feature_map)
        return float((gradient * feature_map).detach().sum())

    # For a head that pools and projects without a bias, the map through the normalisation
    # sums to zero, whatever the image; with its scale held it sums to the score itself.
    assert abs(signed_sum(setting.users_network)) < 1e-5
    assert abs(signed_sum(setting.network)) > 0.05
    halves = Halves(setting, "eager", trainable=False)
    feature_map = halves.trunk(image)[0].detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(
        halves.score(feature_map, [], question.all_triplets), feature_map
    )
    assert abs(float((gradient * feature_map).detach().sum())) < 1e-5


def test_what_runs_the_folded_graph_loads_no_torch(document: dict[str, Any], out: Path) -> None:
    assert document
    code = (
        "import sys; from pathlib import Path; import foldcam.benchmarks.studies.peers.memory\n"
        "from foldcam.benchmarks.studies.peers.peer import Setting, builders\n"
        f"setting = Setting(Path({str(out)!r}), 'x'); images, asked = setting.sample()\n"
        "for name in ('plain', 'foldcam'): builders()[name](setting).run(images[0], asked)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_heat_is_the_positive_part_over_its_maximum() -> None:
    feature_map = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])
    gradient = torch.tensor([[[[2.0, 4.0]], [[-1.0, -3.0]]]])
    # Weights 3 and -2: 3 * [1, 0] - 2 * [0, 2] = [3, -4].
    np.testing.assert_allclose(gradcam_heat(gradient, feature_map), [[1.0, 0.0]])
    zero = torch.zeros(1, 2, 1, 2)
    np.testing.assert_array_equal(gradcam_heat(zero, feature_map), [[0.0, 0.0]])


def asked(size: int = 2) -> Asked:
    one = np.eye(size, dtype=np.float32)[0]
    return Asked(0, one, one, one, one)


def test_score_cam_weights_channels_by_what_they_show() -> None:
    # Two channels, left and right; the image is bright on the left, and the score is brightness.
    feature_map = np.zeros((1, 2, 2, 2), np.float32)
    feature_map[0, 0, :, 0], feature_map[0, 1, :, 1] = 1.0, 1.0
    image = np.zeros((1, 3, 2, 2), np.float32)
    image[..., 0] = 10.0

    def embed(batch: Any) -> Any:
        return np.stack([batch.mean((1, 2, 3)), np.zeros(len(batch))], 1).astype(np.float32)

    heat = score_cam_heat(image, feature_map, embed, asked())
    # Scores 5 and 0: softmax.
    share = 1 / (1 + np.exp(-5.0))
    np.testing.assert_allclose(heat, [[share, 1 - share]] * 2, rtol=1e-5)


@pytest.mark.parametrize("error", [ImportError("gone"), RuntimeError("torchvision::nms")])
def test_a_library_that_does_not_import_is_written_out_and_named_so(
    error: Exception, document: dict[str, Any], out: Path, squares: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert document

    class Broken(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise error

    monkeypatch.chdir(squares)
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", Broken("pytorch_grad_cam"))
    setting = Setting(out, "overhead_squares:make")
    peer = gradcam.pytorch_grad_cam(setting)
    assert peer.name == "gradcam_pytorch_grad_cam_written_out"
    images, question = setting.sample()
    # Through the normalisation nothing speaks for a similarity that is there already.
    # The fourth channel is what all images have; it speaks outside of the square.
    other = np.array([0.0, 0.0, 0.0, 1.0], np.float32)
    heat = peer.run(images[0], dataclasses.replace(question, similarity=other))
    # As large as the image, from 0 to 1.
    assert heat.shape == (32, 32)
    assert heat.min() == 0
    assert heat.max() == pytest.approx(1, abs=1e-5)


def test_torchcam_is_missed_by_name(
    document: dict[str, Any], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert document
    monkeypatch.setitem(sys.modules, "torchcam", None)
    monkeypatch.setitem(sys.modules, "torchcam.methods", None)
    with pytest.raises(FoldcamError, match="torch-cam does not import"):
        gradcam.torchcam_gradcam(Setting(out, "overhead_squares:make"))


# openvino_xai: the worker's environment is pretended, the exchange with it is real.

WORKER = """
import json, sys, types
import numpy as np
fake = types.ModuleType("openvino"); fake.__version__ = "pretended"
sys.modules["openvino"] = fake
import importlib.util
spec = importlib.util.spec_from_file_location("worker", sys.argv[1])
worker = importlib.util.module_from_spec(spec); spec.loader.exec_module(worker)
class Request:
    def __init__(self, name): self.name = name
    def infer(self, inputs):
        image = inputs[0]
        maps = np.stack([image[0, 0], -image[0, 0]])[None]
        found = {"embedding": image.mean((2, 3))}
        if self.name == "reciprocam": found["maps"] = maps
        if self.name == "activation_map": found["maps"] = image.mean(1)
        return found
worker.graphs = lambda path, names: {name: Request(name) for name in names}
sys.argv = sys.argv[1:]
worker.main()
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter whose openvino is pretended."""
    (tmp_path / "pretend.py").write_text(WORKER)
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path / "pretend.py"}" "$@"\n')
    script.chmod(0o755)
    return script


def expanding_graph() -> onnx.ModelProto:
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["pooled"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceL2", ["pooled"], ["norm"], axes=[1], keepdims=1),
        helper.make_node("Shape", ["pooled"], ["shape"]),
        helper.make_node("Expand", ["norm", "shape"], ["wide"]),
        helper.make_node("Div", ["pooled", "wide"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 2, 2])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_the_worker_answers_with_a_map_and_its_own_clock(python: Path, tmp_path: Path) -> None:
    onnx.save(expanding_graph(), tmp_path / "plain.onnx")
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
    worker = Worker(python, tmp_path / "plain.onnx", ["plain", "reciprocam", "activation_map"])
    try:
        plain, recipro, activation = openvino_peers(worker)
        assert plain.library == "openvino pretended"
        assert plain.run(image, asked()).shape == (0, 0)
        # The first output's map, as the direction [1, 0] asks.
        np.testing.assert_array_equal(recipro.run(image, asked()), image[0, 0])
        np.testing.assert_array_equal(activation.run(image, asked()), image[0].mean(0))
        assert activation.remote_times is not None
        wall, processor = activation.remote_times()
        assert processor >= 0
        assert 0 < wall < 10
    finally:
        worker.close()


def test_a_worker_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    onnx.save(expanding_graph(), tmp_path / "plain.onnx")
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho first >&2\necho no openvino here >&2\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(FoldcamError, match="the last that it said: no openvino here"):
        Worker(script, tmp_path / "plain.onnx", ["plain"])


def test_a_map_per_output_is_asked_by_the_direction() -> None:
    maps = np.array([[[[1.0, 2.0]], [[10.0, -20.0]]]], np.float32)
    np.testing.assert_array_equal(heat_of([0, maps], np.array([1.0, 1.0])), [[11.0, 0.0]])


def test_a_division_needs_no_expand() -> None:
    import onnxruntime

    model = expanding_graph()
    simple = for_reciprocam(model)
    assert [node.op_type for node in simple.graph.node].count("Expand") == 0
    assert [node.op_type for node in model.graph.node].count("Expand") == 1
    image = np.random.default_rng(0).random((2, 3, 2, 2), np.float32)
    found = [
        onnxruntime.InferenceSession(each.SerializeToString()).run(None, {"image": image})[0]
        for each in (model, simple)
    ]
    np.testing.assert_array_equal(*found)


def test_scores_of_a_shared_answer_are_not_measured_twice(document: dict[str, Any]) -> None:
    against = document["against_foldcam"]
    assert against["gradcam_head"] == against["gradcam_full"]
