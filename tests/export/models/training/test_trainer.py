"""Training learns, is deterministic, goes on after an interruption, and its file loads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from foldcam.export.datasets import Sample
from foldcam.export.models.spec import LoadedModel, load_model
from foldcam.export.models.trained_file import (
    Architecture,
    embedding_network,
    save_network,
    trained_architecture,
)
from foldcam.export.models.training.front_cache import draw_mosaic, region_masks, view
from foldcam.export.models.training.losses import kernel_loss, parse_loss
from foldcam.export.models.training.trainee import Trainee
from foldcam.export.models.training.trainer import TrainingOptions, _Learner, train
from foldcam.runtime.images.files import write_image
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

RECIPE = Preprocessing(width=16, height=16, mean=(0.5,) * 3, std=(0.5,) * 3)
OPTIONS = TrainingOptions(
    embedding_size=4,
    loss="SupConLoss:temperature=0.2",
    epochs=6,
    labels_per_batch=3,
    images_per_label=2,
    views=2,
    mosaics=4,
    mosaics_per_batch=2,
    learning_rate=5e-3,
)


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.last = nn.Conv2d(6, 8, 3, stride=2, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        middle = self.norm(self.stem(image)).relu()
        return self.last(middle).relu().mean(dim=(2, 3))


class GeneralisedMean(Backbone):
    """The same, pooled by a mean of powers whose power is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(3.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        middle = self.norm(self.stem(image)).relu()
        powers = self.last(middle).relu().clamp(min=1e-3) ** self.power
        return powers.mean(dim=(2, 3)) ** (1 / self.power)


class Transformer(nn.Module):
    """Two blocks of attention over a class token and 4 x 4 patches; returns the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.first = nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        patches = self.patches(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(image.shape[0], -1, -1), patches], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens[:, 0]


def loaded() -> LoadedModel:
    torch.manual_seed(0)
    return LoadedModel(Backbone().eval(), RECIPE, "backbone:make", "")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    made = []
    for number, label in enumerate(("red", "green", "blue")):
        for index in range(5):
            image = generator.integers(0, 90, (20, 24, 3), np.uint8)
            image[..., number] += 120
            path = folder / f"{label}-{index}.png"
            write_image(path, image)
            made.append(Sample(path, label))
    return made


def _bytes(path: Path) -> bytes:
    return path.read_bytes()


def test_training_lowers_the_loss_and_writes_a_network_that_tells_the_labels_apart(
    samples: list[Sample], tmp_path: Path
) -> None:
    out = tmp_path / "net.safetensors"
    report = train(loaded(), samples, out, replace(OPTIONS, epochs=20))
    assert np.mean(report.losses[-5:]) < np.mean(report.losses[:5])
    architecture = trained_architecture(out)
    assert architecture == Architecture("backbone:make", 4, RECIPE)
    assert not list(tmp_path.glob(".*"))


def test_the_same_seed_gives_the_same_file_and_another_seed_another(
    samples: list[Sample], tmp_path: Path
) -> None:
    first, again, other = (tmp_path / f"{n}.safetensors" for n in "abc")
    train(loaded(), samples, first, OPTIONS)
    train(loaded(), samples, again, OPTIONS)
    train(loaded(), samples, other, replace(OPTIONS, seed=1))
    assert _bytes(first) == _bytes(again)
    assert _bytes(first) != _bytes(other)


def test_an_interrupted_training_goes_on_and_ends_as_if_it_had_not_been(
    samples: list[Sample], tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    train(loaded(), samples, whole, OPTIONS)

    def interrupt(stage: str, done: int, _: int) -> None:
        if stage == "training" and done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(loaded(), samples, cut, OPTIONS, progress=interrupt)
    assert not cut.exists()
    report = train(loaded(), samples, cut, OPTIONS)
    assert report.resumed_at > 0
    assert _bytes(whole) == _bytes(cut)


def test_a_checkpoint_of_other_options_is_not_used(samples: list[Sample], tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"

    def interrupt(stage: str, done: int, _: int) -> None:
        if stage == "training" and done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(loaded(), samples, out, OPTIONS, progress=interrupt)
    assert train(loaded(), samples, out, replace(OPTIONS, learning_rate=1e-3)).resumed_at == 0


def test_only_what_lies_after_the_cut_learns_and_batch_statistics_stay(
    samples: list[Sample], tmp_path: Path
) -> None:
    before = loaded()
    start = {name: value.clone() for name, value in before.module.state_dict().items()}
    out = tmp_path / "net.safetensors"
    report = train(before, samples, out, replace(OPTIONS, train_from="backbone.norm"))
    assert report.train_from == "backbone.norm"
    after = {name.removeprefix("backbone."): value for name, value in load_file(out).items()}
    assert torch.equal(after["stem.weight"], start["stem.weight"])
    assert torch.equal(after["norm.running_mean"], start["norm.running_mean"])
    assert not torch.equal(after["last.weight"], start["last.weight"])
    for name, value in before.module.state_dict().items():
        assert torch.equal(value, start[name]), "the base is another's to train as well"


def test_unreadable_images_are_skipped_and_named(samples: list[Sample], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    out = tmp_path / "net.safetensors"
    report = train(loaded(), [*samples, Sample(broken, "red")], out, replace(OPTIONS, epochs=1))
    assert [item.path for item in report.skipped] == [broken]


def test_the_trained_part_runs_what_the_whole_network_runs() -> None:
    module = embedding_network(Backbone().eval(), Architecture("x:y", 4, RECIPE))
    trainee = Trainee(module, (16, 16))
    images = torch.randn(5, 3, 16, 16)
    feature_map, context = trainee.feature_maps(trainee.run_front(images))
    torch.testing.assert_close(trainee.embed(feature_map, context), module(images))


def test_a_power_that_is_learned_before_and_after_the_sum_learns() -> None:
    module = embedding_network(GeneralisedMean().eval(), Architecture("x:y", 4, RECIPE))
    trainee = Trainee(module, (16, 16))
    assert "power" in " ".join(name for name, _ in trainee.learning)
    front = trainee.run_front(torch.randn(5, 3, 16, 16))
    feature_map, context = trainee.feature_maps(front)
    assert context == []
    torch.autograd.backward(trainee.embed(feature_map, context)[:, 0].sum())
    power = next(value for name, value in trainee.learning if "power" in name)
    assert power.grad is not None
    assert power.grad != 0


def test_the_embedding_of_a_region_is_that_of_its_own_average_for_a_pooling_head() -> None:
    module = embedding_network(Backbone().eval(), Architecture("x:y", 4, RECIPE))
    trainee = Trainee(module, (16, 16))
    feature_map = torch.rand(2, 8, 4, 4)
    masks = torch.zeros(2, 3, 4, 4)
    masks[0, 0, :2, :2] = 1
    masks[1, 2, 2:, :] = 1
    found = trainee.embed_regions(feature_map, [], masks)
    pooled = torch.stack(
        [feature_map[0, :, :2, :2].mean(dim=(1, 2)), feature_map[1, :, 2:, :].mean(dim=(1, 2))]
    )
    torch.testing.assert_close(found, nn.functional.normalize(module.projection(pooled), dim=1))


def test_a_part_of_a_token_map_is_embedded_as_a_map_of_its_own_tokens_alone() -> None:
    torch.manual_seed(0)
    module = embedding_network(Transformer().eval(), Architecture("x:y", 4, RECIPE))
    trainee = Trainee(module, (16, 16))
    feature_map, context = trainee.feature_maps(trainee.run_front(torch.randn(1, 3, 16, 16)))
    masks = torch.zeros(1, 3, 4, 4)
    masks[0, 0, :2] = 1
    masks[0, 1, :, 1:3] = 1
    masks[0, 2] = 1
    found = trainee.embed_regions(feature_map, context, masks)
    top, columns = feature_map[:, :, :2], feature_map[:, :, :, 1:3]
    # Each is half of the map: its tokens come twice.
    alone = [torch.cat([top, top], dim=2), torch.cat([columns, columns], dim=3), feature_map]
    wanted = torch.cat([trainee.embed(each, context) for each in alone])
    torch.testing.assert_close(found, wanted)


def test_training_a_transformer_lowers_the_loss_and_repeats_itself(
    samples: list[Sample], tmp_path: Path
) -> None:
    first, again = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for out in (first, again):
        torch.manual_seed(0)
        base = LoadedModel(Transformer().eval(), RECIPE, "transformer:make", "")
        report = train(base, samples, out, replace(OPTIONS, epochs=20))
    assert np.mean(report.losses[-5:]) < np.mean(report.losses[:5])
    assert _bytes(first) == _bytes(again)


def test_region_masks_are_shares_of_cells() -> None:
    masks = region_masks([(0, 0, 6, 4), (6, 0, 16, 4)], (16, 16), (4, 4))
    # Cells are 4 pixels wide: the first box covers one and a half of the first row.
    np.testing.assert_allclose(masks[0, 0], [1, 0.5, 0, 0])
    np.testing.assert_allclose(masks[1, 0], [0, 0.5, 1, 1])
    assert masks[0, 1:].sum() == masks[2:].sum() == 0


def test_a_mosaic_shows_each_photograph_in_its_box() -> None:
    images = [np.full((12, 12, 3), 40 * n, np.uint8) for n in range(4)]
    generator = np.random.default_rng(0)
    mosaic = draw_mosaic(images, np.asarray([0, 1, 2, 3]), 2, RECIPE, generator)
    assert sorted(mosaic.subjects) == [0, 1, 2, 3]
    covered = 0
    for subject, (x0, y0, x1, y1) in zip(mosaic.subjects, mosaic.boxes, strict=True):
        assert (mosaic.image[y0:y1, x0:x1] == 40 * subject).all()
        covered += (x1 - x0) * (y1 - y0)
    assert covered == 16 * 16


def test_the_first_views_are_the_photograph_and_its_mirror_image() -> None:
    image = np.random.default_rng(0).integers(0, 255, (8, 10, 3), np.uint8)
    generator = np.random.default_rng(0)
    assert np.array_equal(view(image, 0, generator), image)
    assert np.array_equal(view(image, 1, generator), image[:, ::-1])


def test_the_kernel_loss_estimates_each_row_from_the_others() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    values = torch.tensor([1.0, 5.0, 3.0])
    # tau 1, cosines 0 and 1: row 0 sees rows 1 and 2 with weights 1 : e.
    e = float(np.e)
    first = (1 * 5 + e * 3) / (1 + e)
    second = (1 + 3) / 2
    third = (e * 1 + 1 * 5) / (1 + e)
    expected = ((first - 1) ** 2 + (second - 5) ** 2 + (third - 3) ** 2) / 3
    assert float(kernel_loss(embeddings, values, 1.0)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "miner", "message"),
    [
        ("NoSuchLoss", None, "no 'NoSuchLoss'"),
        ("TripletMarginLoss:colour=3", None, "cannot be made"),
        ("TripletMarginLoss:margin", None, "not name=number"),
        ("TripletMarginLoss", "NoSuchMiner", "no 'NoSuchMiner'"),
        ("kernel:width=1", None, "takes tau alone"),
    ],
)
def test_a_loss_that_does_not_exist_is_refused_in_one_sentence(
    loss: str, miner: str | None, message: str
) -> None:
    with pytest.raises(FoldcamError, match=message):
        parse_loss(loss, miner, 3, 4)


def test_a_loss_with_proxies_learns_them(samples: list[Sample], tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    report = train(loaded(), samples, out, replace(OPTIONS, loss="ProxyAnchorLoss", epochs=2))
    assert np.isfinite(report.losses).all()


def test_one_label_alone_cannot_be_trained_on(samples: list[Sample], tmp_path: Path) -> None:
    with pytest.raises(FoldcamError, match="at least two"):
        train(loaded(), samples[:5], tmp_path / "net.safetensors", OPTIONS)


def test_normalised_embeddings_cannot_be_projected_again() -> None:
    class Normalised(Backbone):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return nn.functional.normalize(super().forward(image), dim=1)

    with pytest.raises(FoldcamError, match="normalised embeddings"):
        embedding_network(Normalised(), Architecture("x:y", 4, RECIPE))


def test_a_trained_file_does_not_choose_what_code_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_network(path, Backbone(), Architecture("os:abort", None, RECIPE), {})
    with pytest.raises(FoldcamError, match="name that as MODEL"):
        load_model(str(path))


def test_plain_weights_are_no_network(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(FoldcamError, match="without an architecture"):
        load_model(str(path))


def test_a_picture_for_which_the_network_gives_nan_is_named(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = _Learner._embed

    def broken(
        learner: _Learner, images: np.ndarray, views: np.ndarray, mosaics: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        embeddings, labels = embed(learner, images, views, mosaics)
        bad = torch.zeros(len(embeddings), 1)
        bad[np.flatnonzero(images == 7)] = torch.nan
        return embeddings + bad, labels

    monkeypatch.setattr(_Learner, "_embed", broken)
    with pytest.raises(FoldcamError, match=rf"not finite .*{samples[7].path.name}"):
        train(loaded(), samples, tmp_path / "net.safetensors", OPTIONS)
