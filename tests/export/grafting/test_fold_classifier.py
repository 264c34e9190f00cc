"""Classifiers folded without images: their answers beside those of torch and of hand-made sums."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from foldcam.export.exporting.classifier_exporter import export_classifier
from foldcam.export.grafting.fold import FoldOptions
from foldcam.export.models.classifier import classifier_network
from foldcam.export.models.spec import load_model, wrap_module
from foldcam.export.verification.images import noise_images
from foldcam.export.verification.run import verify_model
from foldcam.runtime.contract.onnx_file import read_contract
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.model.folded_model import FoldedModel
from foldcam.runtime.system.errors import FoldcamError

SIZE = 32
RECIPE = Preprocessing(SIZE, SIZE)
CLASSES = 5


def stem():
    """Image -> `[N, 12, 8, 8]`, of both signs."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.SiLU()
    )


class Pooled(nn.Module):
    """Average pool and what is given behind it."""

    def __init__(self, *head):
        super().__init__()
        self.stem, self.head = stem(), nn.Sequential(*head)

    def forward(self, image):
        return self.head(self.stem(image).mean((2, 3)))


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.color, self.size = stem(), nn.Linear(12, 5), nn.Linear(12, 3)

    def forward(self, image):
        pooled = self.stem(image).mean((2, 3))
        return {"color": self.color(pooled), "size": self.size(pooled)}


class Boxes(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = stem(), nn.Conv2d(12, 4 + CLASSES, 1)

    def forward(self, image):
        return self.head(self.stem(image)).flatten(2).transpose(1, 2)


HEADS = {
    "linear": lambda: Pooled(nn.Linear(12, CLASSES)),
    "softmax": lambda: Pooled(nn.Linear(12, CLASSES), nn.Softmax(1)),
    "log-softmax": lambda: Pooled(nn.Linear(12, CLASSES), nn.LogSoftmax(1)),
    "two layers": lambda: Pooled(nn.Linear(12, 7), nn.BatchNorm1d(7), nn.Linear(7, CLASSES)),
    "hidden": lambda: Pooled(nn.Linear(12, 9), nn.Hardswish(), nn.Linear(9, CLASSES), nn.Sigmoid()),
    "convolution": lambda: nn.Sequential(
        stem(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(12, CLASSES, 1), nn.Flatten()
    ),
    "flatten": lambda: nn.Sequential(
        stem(), nn.Flatten(), nn.Linear(12 * 64, 9), nn.ReLU(), nn.Linear(9, CLASSES)
    ),
    "flatten, one layer": lambda: nn.Sequential(stem(), nn.Flatten(), nn.Linear(12 * 64, CLASSES)),
}
POOLED = ("linear", "softmax", "log-softmax", "two layers", "hidden", "convolution")


def made(make, seed=0):
    torch.manual_seed(seed)
    return make().eval()


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    """`folded(name)`: module, loaded model and folded file of a head, made once."""
    known = {}

    def get(name):
        if name not in known:
            module = made(HEADS[name])
            loaded = wrap_module(module, preprocessing=RECIPE, name="test")
            path = tmp_path_factory.mktemp("classifier") / "model.onnx"
            export_classifier(loaded, path, options=FoldOptions(neighbors=3, contrast=True))
            known[name] = module, loaded, path
        return known[name]

    return get


@pytest.fixture
def export(tmp_path):
    """`export(module, classes=..., contrast=True)`: the folded file of a module or loaded model."""

    def call(module, classes=None, layer=None, opset=18, **options):
        loaded = module
        if isinstance(module, nn.Module):
            loaded = wrap_module(module, preprocessing=RECIPE, name="test")
        out = tmp_path / "classifier.onnx"
        return export_classifier(
            loaded, out, classes, layer=layer, options=FoldOptions(**options), opset=opset
        ).path

    return call


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(3).integers(0, 255, (SIZE, SIZE, 3)).astype(np.uint8)


def logits_of(module):
    """A copy of a module without what it makes of its logits."""
    module = deepcopy(module)
    head = module.head if isinstance(module, Pooled) else module
    last = list(head)[-1]
    if isinstance(last, (nn.Softmax, nn.LogSoftmax, nn.Sigmoid)):
        head[-1] = nn.Identity()
    return module


def grad_cam(module, image, place):
    """`(signed map, logits)` of Grad-CAM in torch: spatial mean of the gradient times the map.

    Args:
        module: without a softmax at its end.
        image: `uint8 [H, W, 3]`.
        place: the class by its place among the greatest logits.
    """
    kept = {}
    layer = module.stem if isinstance(module, Pooled) else module[0]
    hook = layer.register_forward_hook(lambda _, __, output: kept.update(map=output))
    with torch.enable_grad():
        x = torch.from_numpy(RECIPE.normalized(image[None])).requires_grad_(True)
        logits = module(x)
        hook.remove()
        chosen = logits[0].argsort(descending=True)[place]
        (gradient,) = torch.autograd.grad(logits[0, chosen], kept["map"])
    weights = gradient.mean((2, 3), keepdim=True)
    signed = (weights * kept["map"]).sum(1)[0]
    return signed.detach().numpy(), logits[0].detach().numpy()


@pytest.mark.parametrize("name", POOLED)
def test_a_pooled_head_gives_grad_cam_of_the_best_class_and_of_the_second(name, folded, photo):
    module, _, path = folded(name)
    with torch.no_grad():
        scores = module(torch.from_numpy(RECIPE.normalized(photo[None])))[0].numpy()
    with FoldedModel.load(path, "cpu", 1) as model:
        result = model(photo)
    module = logits_of(module)
    best, logits = grad_cam(module, photo, 0)
    second, _ = grad_cam(module, photo, 1)
    order = np.argsort(-logits)
    np.testing.assert_allclose(result.embedding, scores, atol=1e-5)
    np.testing.assert_array_equal(result.neighbors, order[:3])
    np.testing.assert_allclose(result.similarities, scores[order[:3]], atol=1e-5)
    heat = np.maximum(best, 0) / np.maximum(best, 0).max()
    np.testing.assert_allclose(result.heatmap, heat, atol=1e-5)
    np.testing.assert_allclose(result.contribution, best, atol=1e-5)
    np.testing.assert_allclose(result.contrast, best - second, atol=1e-5)
    assert result.runner_up == order[1]
    assert result.runner_up_similarity == pytest.approx(scores[order[1]], abs=1e-5)


@pytest.mark.parametrize("name", ["linear", "flatten, one layer", "softmax"])
def test_contributions_add_up_to_the_logit_without_its_bias(name, folded, photo):
    module, _, path = folded(name)
    with FoldedModel.load(path, "cpu", 1) as model:
        result = model(photo)
    module = logits_of(module)
    layer = next(m for m in list(module.modules())[::-1] if isinstance(m, nn.Linear))
    with torch.no_grad():
        logits = module(torch.from_numpy(RECIPE.normalized(photo[None])))[0]
    best = int(logits.argmax())
    assert result.contribution.sum() == pytest.approx(float(logits[best] - layer.bias[best]), 1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_the_file_verifies_against_itself_and_its_network_and_builds(name, folded, build_engine):
    _, loaded, path = folded(name)
    contract = read_contract(path)
    assert contract.scores == {"softmax": "softmax", "log-softmax": "log-softmax",
                               "hidden": "sigmoid"}.get(name, "logits")  # fmt: skip
    assert contract.explanation.summands == ("linear" if "flatten" in name else "pool")
    own = name in ("hidden", "flatten")
    assert contract.explanation.grad_weights == ("own" if own else "transferred")
    again = classifier_network(loaded, contract.layer, (SIZE, SIZE))
    for network in (None, again.network):
        report = verify_model(path, network, noise_images(contract))
        assert report.passed, report.failures
        assert report.main.heatmap_difference_worst < 1e-5
        assert report.main.contrast_difference_worst < 1e-5
    build_engine(onnx.load(path))


def test_a_changed_weight_is_found_by_verify(folded, tmp_path):
    model = onnx.load(folded("linear")[2])
    path = tmp_path / "changed.onnx"
    table = next(t for t in model.graph.initializer if t.name == "foldcam.bank_grad_weights")
    weights = onnx.numpy_helper.to_array(table).copy()
    weights[0, 0] += 1
    table.CopyFrom(onnx.numpy_helper.from_array(weights, table.name))
    onnx.save(model, path)
    report = verify_model(path, None, noise_images(read_contract(path)))
    assert "the bank in the graph is not the one that the metadata describe" in report.failures


@pytest.mark.parametrize(
    "settings",
    [
        {"input_type": "uint8", "heatmap_size": "input"},
        {"precision": "fp16", "neighbors": 4},
        {"opset": 17, "heatmap_size": (3, 9)},
    ],
)
@pytest.mark.parametrize("name", ["softmax", "hidden"])
def test_every_form_of_the_file_agrees_and_builds(name, settings, folded, export, build_engine):
    path = export(folded(name)[1], contrast=True, **settings)
    if settings.get("input_type") != "uint8" or name != "hidden":
        report = verify_model(path, None, noise_images(read_contract(path)))
        assert report.passed, report.failures
    build_engine(onnx.load(path))


def test_classes_are_ranked_by_their_logits_where_probabilities_round_to_one(export, photo):
    module = made(HEADS["hidden"])
    with torch.no_grad():
        module.head[2].bias.copy_(torch.tensor([100.0, 300.0, 200.0, 250.0, 150.0]))
        module.head[0].weight.mul_(1e-3)
    with FoldedModel.load(export(module, neighbors=5), "cpu", 1) as model:
        result = model(photo)
    assert (result.similarities == 1).all()
    assert result.neighbors.tolist() == [1, 3, 2, 4, 0]


def test_an_onnx_file_folds_like_the_module_that_it_came_from(folded, photo, tmp_path):
    module, _, path = folded("softmax")
    with FoldedModel.load(path, "cpu", 1) as model:
        expected = model(photo)
    file = tmp_path / "plain.onnx"
    torch.onnx.export(
        module, (torch.zeros(2, 3, SIZE, SIZE),), file, dynamo=True, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
    )  # fmt: skip
    loaded = load_model(str(file))
    report = export_classifier(loaded, tmp_path / "folded.onnx", preprocessing=RECIPE)
    assert report.contract.scores == "softmax"
    with FoldedModel.load(report.path, "cpu", 1) as model:
        result = model(photo)
    np.testing.assert_allclose(result.embedding, expected.embedding, atol=1e-6)
    np.testing.assert_allclose(result.heatmap, expected.heatmap, atol=1e-5)
    verified = verify_model(
        report.path,
        classifier_network(loaded, report.contract.layer, (SIZE, SIZE)).network,
        noise_images(report.contract),
    )
    assert verified.passed, verified.failures


def test_names_come_from_a_file_and_are_numbers_without_one(folded, export, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcde"))
    loaded = folded("linear")[1]
    assert [run.name for run in read_contract(export(loaded, names)).labels] == list("abcde")
    report = export_classifier(loaded, tmp_path / "numbered.onnx")
    assert [run.name for run in report.contract.labels] == list("01234")
    assert any("its 5 classes are named by their numbers" in note for note in report.notes)
    names.write_text("a\nb\n")
    with pytest.raises(FoldcamError, match="names 2 classes, and the network has 5 scores"):
        export(loaded, names)


def test_one_of_several_heads_is_named(tmp_path):
    module = made(TwoHeads)
    with pytest.raises(FoldcamError, match=r"could be the scores.*color \[N x 5\], size \[N x 3\]"):
        export_classifier(wrap_module(module, preprocessing=RECIPE), tmp_path / "x.onnx")
    loaded = wrap_module(module, preprocessing=RECIPE, output="size")
    assert export_classifier(loaded, tmp_path / "x.onnx").contract.bank.rows == 3


@pytest.mark.parametrize(
    "make",
    [Boxes, lambda: nn.Sequential(stem(), nn.Conv2d(12, CLASSES, 1))],
    ids=["boxes", "positions"],
)
def test_detection_and_segmentation_are_refused_in_one_sentence(make, export, tmp_path):
    module = made(make)
    with pytest.raises(FoldcamError, match="return boxes, or a class for each position"):
        export(module)
    file = tmp_path / "plain.onnx"
    torch.onnx.export(module, (torch.zeros(2, 3, SIZE, SIZE),), file, dynamo=True, verbose=False)
    with pytest.raises(FoldcamError, match="return boxes, or a class for each position") as caught:
        export_classifier(load_model(str(file)), tmp_path / "x.onnx", preprocessing=RECIPE)
    assert str(caught.value).count(". ") == 0


def test_an_embedding_network_is_refused(export):
    class Normalized(Pooled):
        def forward(self, image):
            return nn.functional.normalize(super().forward(image))

    with pytest.raises(FoldcamError, match="give its training images with --images"):
        export(made(lambda: Normalized(nn.Linear(12, CLASSES))))


def test_a_head_without_a_gradient_in_the_graph_is_refused(export):
    module = made(
        lambda: nn.Sequential(stem(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(12, CLASSES))
    )
    with pytest.raises(FoldcamError, match="cannot be folded: its logits are no function of one"):
        export(module)


@pytest.mark.parametrize("name", HEADS)
def test_a_classifier_answers_its_probes_and_a_wrong_map_is_refused(
    name, folded, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = folded(name)[2]
    canary = read_contract(path).canary
    assert canary is not None
    assert set(canary.answers[0].maps) == {"heatmap", "contribution", "contrast"}
    with FoldedModel.load(path, "cpu") as model:
        assert model.accepted_wrong is None
    changed = onnx.load(path)
    table = next(t for t in changed.graph.initializer if t.name == "foldcam.bank_grad_weights")
    weights = np.ascontiguousarray(onnx.numpy_helper.to_array(table)[:, ::-1])
    table.CopyFrom(onnx.numpy_helper.from_array(weights, table.name))
    onnx.save(changed, tmp_path / "wrong.onnx")
    with pytest.raises(FoldcamError, match=r"map .* agrees with the float model's"):
        FoldedModel.load(tmp_path / "wrong.onnx", "cpu")
