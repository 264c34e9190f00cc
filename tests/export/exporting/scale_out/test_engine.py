"""The Ray engine against the local one; the passes run in this process."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from foldcam.export.banks.bank import Bank
from foldcam.export.banks.low_rank import factors
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.banks.objectives.kernel import KernelObjective
from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.bank_files import build_bank_file
from foldcam.export.exporting.scale_out.engine import build_bank_file_on_ray
from foldcam.export.exporting.scale_out.sources import load_sharded
from foldcam.export.grafting.options import Compression
from foldcam.export.models.spec import load_model
from foldcam.runtime.images.files import write_image
from foldcam.runtime.system.errors import FoldcamError

pytestmark = pytest.mark.usefixtures("in_process")
KERNEL = KernelObjective("kernel:tau=0.1", 0.1)


def _local(model, images, goal, continuous=False):
    dataset = load_dataset(Path(images), "train", continuous=continuous)
    return build_bank_file(load_model(model), dataset, Path("local.safetensors"), goal).report


def _scaled(model, images, goal, continuous=False, size=5, **more):
    data = load_sharded(str(images), "train", size, continuous=continuous)
    return build_bank_file_on_ray(model, data, Path("ray.safetensors"), goal, **more)


def assert_same(found: Bank, expected: Bank):
    np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=1e-5)
    np.testing.assert_allclose(found.row_grad_weights(), expected.row_grad_weights(), atol=1e-5)
    assert found.grad_weights.shape == expected.grad_weights.shape
    np.testing.assert_array_equal(found.image_hashes, expected.image_hashes)
    assert (found.labels, found.objective) == (expected.labels, expected.objective)
    assert found.names == expected.names
    assert (found.summands, found.rule) == (expected.summands, expected.rule)
    assert found.summands == "pool"
    np.testing.assert_allclose(found.mean_summands, expected.mean_summands, atol=1e-5)
    assert found.source == expected.source


@pytest.mark.parametrize("head", ["linear", "bent"])
@pytest.mark.parametrize(
    "goal", ["all-triplets", "proxy", "sampled:3", "pml:TripletMarginLoss:margin=0.5"]
)
def test_the_bank_is_that_of_one_machine(net, head, goal, shared_photos):
    model = getattr(net, head)
    expected = _local(model, shared_photos, parse_objective(goal))
    made = _scaled(model, shared_photos, parse_objective(goal))
    assert_same(Bank.load(Path("ray.safetensors")), expected.bank)
    report = made.built.report
    assert (report.head, report.fallback_rows) == (expected.head, expected.fallback_rows)
    assert (made.figures["shards"], made.figures["shards_resumed"]) == (3, 0)
    assert sorted(path.name for path in Path().glob(".*")) == []


@pytest.mark.parametrize("head", ["linear", "bent"])
def test_values_are_estimated_as_on_one_machine(net, head, shared_photos):
    paths = sorted(shared_photos.rglob("*.png"))
    with Path("prices.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [("path", "label"), *((str(p), 3 + (7 * n) % 12) for n, p in enumerate(paths))]
        )
    expected = _local(getattr(net, head), "prices.csv", KERNEL, continuous=True).bank
    _scaled(getattr(net, head), "prices.csv", KERNEL, continuous=True)
    found = Bank.load(Path("ray.safetensors"))
    np.testing.assert_array_equal(found.outcome.values, expected.outcome.values)
    assert_same(found, expected)


def test_rows_in_blocks_are_near_those_compared_with_all_and_that_is_reported(net, shared_photos):
    goal = parse_objective("pml:TripletMarginLoss:margin=0.5")
    expected = _local(net.linear, shared_photos, goal).bank
    made = _scaled(net.linear, shared_photos, goal, block_rows=4)
    found = made.built.report.bank
    np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=1e-5)
    a, b = found.row_grad_weights(), expected.row_grad_weights()
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert np.median(cosines) > 0.8
    assert any("within 3 blocks of about 4 rows" in note for note in made.built.notes)


def test_finished_shards_are_kept_and_a_damaged_one_is_made_again(net, shared_photos):
    goal = parse_objective("all-triplets")
    first = _scaled(net.bent, shared_photos, goal, keep_shards=Path("kept"))
    expected = first.built.report.bank
    shards = sorted(Path("kept").rglob("rows-*"))
    assert len(shards) == 3
    flipped = bytearray(shards[0].read_bytes())
    flipped[-3] ^= 1
    shards[0].write_bytes(flipped)
    again = _scaled(net.bent, shared_photos, goal, keep_shards=Path("kept"))
    assert again.figures["shards_resumed"] == 2
    assert again.built.report.bank.sha256() == expected.sha256()


@pytest.mark.parametrize("head", ["linear", "bent"])
def test_kept_shards_serve_another_objective(net, head, shared_photos):
    _scaled(getattr(net, head), shared_photos, parse_objective("all-triplets"),
            keep_shards=Path("kept"))  # fmt: skip
    other = parse_objective("proxy")
    made = _scaled(getattr(net, head), shared_photos, other, keep_shards=Path("kept"))
    assert made.figures["shards_resumed"] == 3
    assert_same(made.built.report.bank, _local(getattr(net, head), shared_photos, other).bank)


def test_an_image_that_is_gone_before_the_second_pass_is_named(net, photos, monkeypatch):
    from foldcam.export.exporting.scale_out.work import Worker

    pull = Worker.pull

    def after_a_loss(worker, task):
        (photos / "red" / "0.png").unlink(missing_ok=True)
        pull(worker, task)

    monkeypatch.setattr(Worker, "pull", after_a_loss)
    with pytest.raises(FoldcamError, match=r"red/0.png could be read at first and now cannot"):
        _scaled(net.bent, photos, parse_objective("all-triplets"))
    assert not Path("ray.safetensors").exists()


def test_a_picture_whose_embedding_is_not_finite_is_named(net, photos):
    source = "\n\nclass Torn(Net):\n    def forward(self, image):\n" + (
        "        steps = (image[:, :, 1:] - image[:, :, :-1]).abs().amax((1, 2, 3), keepdim=True)\n"
        "        return super().forward(image * (steps / steps))\n\n\n"
        "def torn():\n    torch.manual_seed(0)\n    return Torn(False)\n"
    )
    net.path.write_text(net.path.read_text() + source)
    write_image(photos / "red" / "blank.png", np.zeros((20, 24, 3), np.uint8))
    with pytest.raises(FoldcamError, match=r"not finite .*1 of \d images: .*red/blank\.png"):
        _scaled(net.bent.replace(":bent", ":torn"), photos, parse_objective("all-triplets"))


def test_data_of_one_label_are_refused_before_anything_is_embedded(net, photos, monkeypatch):
    from foldcam.export.exporting.scale_out.work import Worker

    for name in ("blue", "green"):
        shutil.rmtree(photos / name)
    monkeypatch.setattr(Worker, "embed", lambda *_: pytest.fail("embedded"))
    with pytest.raises(FoldcamError, match="All images have one label"):
        _scaled(net.bent, photos, parse_objective("all-triplets"))


def test_a_shard_that_cannot_be_made_whole_is_named(net, shared_photos, monkeypatch):
    from foldcam.export.exporting.scale_out.work import Worker

    def cut(worker, task):
        task.out.write_bytes(b"PK half of a shard")

    monkeypatch.setattr(Worker, "embed", cut)
    with pytest.raises(FoldcamError, match=r"The shard .*rows-00000000.npz is damaged or missing"):
        _scaled(net.linear, shared_photos, parse_objective("all-triplets"))


def test_unreadable_images_are_reported_and_left_out(net, photos):
    (photos / "blue" / "broken.png").write_bytes(b"nonsense")
    expected = _local(net.bent, photos, parse_objective("all-triplets"))
    made = _scaled(net.bent, photos, parse_objective("all-triplets"))
    assert_same(made.built.report.bank, expected.bank)
    (skipped,) = made.built.report.skipped
    assert str(skipped.path).endswith("broken.png")


@pytest.fixture
def crops(photos):
    """A CSV of boxes: one reaches beyond, one is there under two labels, a label is lost."""
    (photos / "blue" / "broken.png").write_bytes(b"nonsense")
    rows = [
        f"{label}/{number}.png,{label},{x},1,9,12"
        for label in ("blue", "green", "red") for number in range(3) for x in (0, 8)
    ]  # fmt: skip
    rows += [
        "red/0.png,blue,0,1,9,12",
        "red/1.png,red,15,-3,400,12",
        "blue/broken.png,lost,0,0,4,4",
    ]
    table = photos / "crops.csv"
    table.write_text("path,label,x,y,w,h\n" + "\n".join(rows) + "\n")
    return table


@pytest.mark.parametrize("head", ["linear", "bent"])
def test_crops_are_rows_and_what_the_data_show_is_said_as_on_one_machine(net, head, crops):
    goal, model = parse_objective("all-triplets"), getattr(net, head)
    dataset = load_dataset(crops)
    expected = build_bank_file(load_model(model), dataset, Path("local.safetensors"), goal)
    made = _scaled(model, crops, goal).built
    assert_same(made.report.bank, expected.report.bank)
    assert len({row.tobytes() for row in made.report.bank.image_hashes}) == 19
    assert made.report.bank.rows == 20
    assert made.report.remarks == expected.report.remarks
    assert made.notes == expected.notes
    said = "\n".join(made.notes)
    for sentence in (
        "The same picture under different labels, 1 time: ", "red/0.png#0,1,9,12 (red)",
        "No image of 'lost' could be read: this label is not in the bank.",
        "1 box reaches beyond the photograph",
    ):  # fmt: skip
        assert sentence in said


def test_another_box_is_another_shard(net, crops):
    goal = parse_objective("all-triplets")
    _scaled(net.linear, crops, goal, keep_shards=Path("kept"))
    crops.write_text(
        crops.read_text().replace("blue/0.png,blue,0,1,9,12", "blue/0.png,blue,1,1,9,12")
    )
    made = _scaled(net.linear, crops, goal, keep_shards=Path("kept"))
    assert made.figures["shards_resumed"] == 0
    assert any("21 of 21 rows have a box" in note for note in made.figures["data_notes"])


@pytest.mark.parametrize(
    "arrays",
    [
        {"other": np.zeros(3)},
        {"texts": np.asarray("no JSON")},
        {"texts": np.asarray('{"labels": [], "labels": []}')},
        {"texts": np.asarray("[1, 2]")},
        {"texts": np.asarray('{"skipped": [[]]}')},
    ],
)
def test_a_file_that_is_no_shard_is_refused_in_one_sentence(
    net, shared_photos, monkeypatch, arrays
):
    from foldcam.export.banks.arrays import save_arrays
    from foldcam.export.exporting.scale_out.work import Worker

    monkeypatch.setattr(Worker, "embed", lambda _, task: save_arrays(task.out, arrays))
    with pytest.raises(FoldcamError, match=r"The shard .*rows-00000000.npz is damaged or missing"):
        _scaled(net.linear, shared_photos, parse_objective("all-triplets"))


def test_a_data_set_without_a_readable_image_is_refused(net, photos):
    for path in photos.rglob("*.png"):
        path.write_bytes(b"nonsense")
    with pytest.raises(FoldcamError, match="None of the images could be read; the first"):
        _scaled(net.linear, photos, parse_objective("all-triplets"))


@pytest.mark.parametrize("head", ["linear", "bent"])
def test_prototypes_are_centroids_of_their_label(net, head, shared_photos):
    goal = parse_objective("all-triplets")
    full = _local(getattr(net, head), shared_photos, goal).bank
    made = _scaled(
        getattr(net, head), shared_photos, goal, compression=Compression("prototypes", 1)
    )
    bank = Bank.load(Path("ray.safetensors"))
    assert [(run.name, run.count) for run in bank.labels] == [("blue", 1), ("green", 1), ("red", 1)]
    assert (bank.compression, bank.image_hashes) == ("prototypes:1", None)
    labels = np.asarray(full.row_labels())
    for row, name in enumerate(("blue", "green", "red")):
        middle = full.embeddings[labels == name].mean(0)
        np.testing.assert_allclose(bank.embeddings[row], middle / np.linalg.norm(middle), atol=1e-5)
        weights = full.row_grad_weights()[labels == name].mean(0)
        off = np.abs(bank.row_grad_weights()[row] - weights)
        assert off.max() < 1e-4 * np.abs(weights).max()
    assert made.built.report.bank.source.origin.data_sha256 == full.source.origin.data_sha256


def test_several_prototypes_of_a_label_have_norm_1(net, shared_photos):
    made = _scaled(
        net.linear,
        shared_photos,
        parse_objective("all-triplets"),
        compression=Compression("prototypes", 2),
    )
    bank = made.built.report.bank
    assert all(1 <= run.count <= 2 for run in bank.labels)
    np.testing.assert_allclose(np.linalg.norm(bank.embeddings, axis=1), 1, atol=1e-6)


def test_a_low_rank_is_the_best_one_and_stored_as_factors(net, shared_photos):
    goal = parse_objective("pml:TripletMarginLoss:margin=0.5")
    full = _local(net.bent, shared_photos, goal).bank
    _scaled(net.bent, shared_photos, goal, compression=Compression("rank", 2))
    bank = Bank.load(Path("ray.safetensors"))
    np.testing.assert_allclose(
        bank.grad_weights, factors(full.grad_weights, 2).product(), atol=1e-5
    )
    assert bank.compression == "rank:2"
    with pytest.raises(FoldcamError, match="--compress rank:6 saves nothing"):
        _scaled(net.bent, shared_photos, goal, compression=Compression("rank", 6))


def test_the_command_reports_shards_and_what_is_left_out(net, shared_photos, foldcam):
    build = ("bank", "build", net.linear, "--images", shared_photos, "--engine", "ray",
             "--shard-rows", 5, "--shards", "kept")  # fmt: skip
    status, out, err = foldcam(*build, "--json")
    assert status == 0, err
    document = json.loads(out)
    assert (document["rows"], document["shards"], document["shards_resumed"]) == (12, 3, 0)
    status, out, _ = foldcam(*build, "--compress", "prototypes:2", "--json")
    document = json.loads(out)
    assert (document["compression"], document["shards_resumed"]) == ("prototypes:2", 3)
    assert document["rows"] == 6


@pytest.mark.parametrize(
    ("flags", "status", "sentence"),
    [
        (["--workers", "2"], 2, "need --engine ray"),
        (["--engine", "spark"], 2, "--engine"),
        (["--engine", "ray", "--compress", "zip"], 1, "--compress 'zip'"),
        (["--engine", "ray", "--continuous"], 1, "is not a finite number"),
    ],
)
def test_a_mistake_is_one_sentence(flags, status, sentence, net, shared_photos, foldcam):
    found, _, err = foldcam("bank", "build", net.linear, "--images", shared_photos, *flags)
    assert found == status
    assert sentence in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
