"""Images in tars and behind URLs."""

from __future__ import annotations

import functools
import http.server
import io
import json
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foldcam.export.banks.bank import Bank
from foldcam.export.banks.embedding_pass import batches
from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.scale_out.engine import build_bank_file_on_ray
from foldcam.export.exporting.scale_out.sources import Shard, load_sharded, local_shard
from foldcam.runtime.images.preprocess import Preprocessing
from foldcam.runtime.system.errors import FoldcamError

LOOK = Preprocessing(16, 12)


def _add(archive, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def _tars(photos: Path, folder: Path, each: int = 5) -> Path:
    """The photographs as WebDataset shards, labels as `.cls` and as `.json` alternately."""
    folder.mkdir()
    paths = sorted(photos.rglob("*.png"))
    for at in range(0, len(paths), each):
        with tarfile.open(folder / f"train-{at // each:03d}.tar", "w") as archive:
            for number, path in enumerate(paths[at : at + each]):
                key = f"{path.parent.name}/{path.stem}"
                _add(archive, f"{key}.png", path.read_bytes())
                if number % 2:
                    _add(archive, f"{key}.json", json.dumps({"label": path.parent.name}).encode())
                else:
                    _add(archive, f"{key}.cls", path.parent.name.encode())
    return folder


@pytest.fixture
def served(working_directory):
    """The working directory over HTTP on loopback; gives the address."""
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(working_directory)
    )
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _labels_and_images(shard):
    with local_shard(shard) as local:
        (read,) = batches(local.samples, LOOK, 99)
        return [local.samples[place].label for place in read.positions], read.images.numpy()


def test_tars_are_shards_with_the_same_images_and_labels(photos, working_directory):
    _tars(photos, working_directory / "tars")
    data = load_sharded("tars", "train", 99)
    assert [Path(shard.tar).name for shard in data.shards] == [
        "train-000.tar", "train-001.tar", "train-002.tar"
    ]  # fmt: skip
    labels, images = _labels_and_images(data.shards[0])
    assert labels == ["blue"] * 4 + ["green"]
    (plain,) = load_sharded(str(photos), "train", 5).shards[:1]
    expected = _labels_and_images(plain)
    np.testing.assert_array_equal(images, expected[1])
    assert labels == expected[0]
    assert load_sharded("tars/train-{000..002}.tar", "train", 9).shards == data.shards


def test_a_csv_and_its_images_are_fetched(photos, working_directory, served):
    paths = [path.relative_to(working_directory) for path in sorted(photos.rglob("*.png"))]
    lines = [f"{path},{path.parent.name}" for path in paths]
    lines[1] = f"{served}/{lines[1]}"
    Path("data.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    data = load_sharded(f"{served}/data.csv", "train", 6)
    assert [sample.url for sample in data.listed[:2]] == [
        f"{served}/{paths[0]}", f"{served}/{paths[1]}"
    ]  # fmt: skip
    labels, images = _labels_and_images(data.shards[1])
    expected = _labels_and_images(load_sharded(str(photos), "train", 6).shards[1])
    assert labels == expected[0]
    np.testing.assert_array_equal(images, expected[1])


def test_an_image_that_cannot_be_fetched_is_named_by_its_url(photos, working_directory, served):
    Path("bad.png").write_bytes(b"nonsense")
    lines = ["path,label", "none.png,a", "bad.png,a", "photos/red/0.png,b"]
    Path("data.csv").write_text("\n".join(lines))
    with local_shard(load_sharded(f"{served}/data.csv", "train", 9).shards[0]) as local:
        (batch,) = batches(local.samples, LOOK, 9)
        skipped = [local.named(item) for item in batch.skipped]
    assert [item.place for item in skipped] == [f"{served}/none.png", f"{served}/bad.png"]
    assert skipped[0].reason.startswith(f"{served}/none.png cannot be read")
    assert skipped[1].reason.startswith(f"{served}/bad.png is not an image")
    assert batch.positions == [2]


def test_crops_behind_a_url_are_parts_of_one_copy(photos, working_directory, served):
    lines = ["path,label,x,y,w,h", "photos/red/0.png,a,0,0,5,6", "photos/red/0.png,b,4,2,6,5",
             "photos/red/0.png,b,900,0,5,5"]  # fmt: skip
    Path("data.csv").write_text("\n".join(lines))
    data = load_sharded(f"{served}/data.csv", "train", 9)
    assert any("3 of 3 rows have a box" in note for note in data.notes)
    url = f"{served}/photos/red/0.png"
    assert [s.name for s in data.listed[:2]] == [f"{url}#0,0,5,6", f"{url}#4,2,6,5"]
    with local_shard(data.shards[0]) as local:
        assert len({sample.path for sample in local.samples}) == 1
        (batch,) = batches(local.samples, LOOK, 9)
        (skipped,) = map(local.named, batch.skipped)
    assert batch.positions == [0, 1]
    assert skipped.place == url
    assert skipped.reason.startswith(f"{served}/data.csv, line 4: the box 900,0,5,5 lies outside")
    (plain,) = batches([replace(s, path=photos / "red" / "0.png", url=None)
                        for s in data.listed[:2]], LOOK, 9)  # fmt: skip
    assert batch.hashes == plain.hashes
    np.testing.assert_array_equal(batch.images, plain.images)


@pytest.mark.usefixtures("in_process")
def test_what_tars_show_is_said(net, photos, working_directory):
    for name in ("Red", "gone"):
        (photos / name).mkdir()
        for number in (0, 1):
            data = (photos / "red" / f"{number}.png").read_bytes() if name == "Red" else b"nonsense"
            (photos / name / f"{number}.png").write_bytes(data)
    _tars(photos, working_directory / "tars")
    made = build_bank_file_on_ray(
        net.linear, load_sharded("tars", "train", 5), Path("x.safetensors"),
        parse_objective("all-triplets"),
    ).built  # fmt: skip
    said = "\n".join(made.notes)
    assert "The same picture under different labels, 2 times: " in said
    assert "train-000.tar#Red/0.png (Red)" in said
    assert "No image of 'gone' could be read" in said
    assert "'Red' (2) and 'red' (4)" in said
    with tarfile.open("empty.tar", "w") as archive:
        _add(archive, "notes.txt", b"nothing")
    with pytest.raises(FoldcamError, match=r"^No image is there\.$"):
        build_bank_file_on_ray(
            net.linear, load_sharded("empty.tar", "train", 5), Path("y.safetensors"),
            parse_objective("all-triplets"),
        )  # fmt: skip


@pytest.mark.usefixtures("in_process")
def test_a_bank_of_tars_over_http_is_that_of_the_folders(net, photos, working_directory, served):
    _tars(photos, working_directory / "tars")
    goal = parse_objective("all-triplets")
    for out, images in (("a", str(photos)), ("b", f"{served}/tars/train-{{000..002}}.tar")):
        data = load_sharded(images, "train", 5)
        build_bank_file_on_ray(net.bent, data, Path(f"{out}.safetensors"), goal)
    a, b = (Bank.load(Path(f"{name}.safetensors")) for name in "ab")
    assert a.sha256() == b.sha256()
    np.testing.assert_array_equal(a.image_hashes, b.image_hashes)
    assert a.names[0] == "blue/0.png"
    assert b.names[0].startswith("train-000.tar/")
    assert b.source.origin.data == "train-"


@pytest.mark.usefixtures("in_process")
def test_a_label_of_one_image_in_a_tar_is_refused_kept_or_dropped(net, photos, working_directory):
    plain = load_sharded(str(photos), "train", 5)
    without = build_bank_file_on_ray(
        net.bent, plain, Path("y.safetensors"), parse_objective("all-triplets")
    ).built.report.bank
    (photos / "white").mkdir()
    (photos / "white" / "0.png").write_bytes((photos / "red" / "0.png").read_bytes())
    _tars(photos, working_directory / "tars")
    data, goal = load_sharded("tars", "train", 5), parse_objective("all-triplets")
    with pytest.raises(FoldcamError, match=r"1 label has one image only \('white'\)"):
        build_bank_file_on_ray(net.bent, data, Path("x.safetensors"), goal)
    banks = {}
    for policy in ("keep", "drop"):
        made = build_bank_file_on_ray(
            net.bent, data, Path("x.safetensors"), goal, singletons=policy, keep_shards=Path("kept")
        )
        banks[policy] = made.built.report.bank
    assert made.figures["shards_resumed"] == 3
    assert "1 labels of one image were left out." in made.built.notes
    assert (banks["keep"].rows, banks["drop"].rows) == (13, 12)
    np.testing.assert_allclose(banks["drop"].grad_weights, without.grad_weights, atol=1e-5)


def test_what_is_wrong_with_a_tar_is_one_sentence(photos, working_directory):
    _tars(photos, working_directory / "tars")
    whole = Path("tars/train-000.tar").read_bytes()
    Path("cut.tar").write_bytes(whole[: len(whole) // 2 + 100])
    with pytest.raises(FoldcamError, match=r"cut.tar (is not a complete .tar file|cannot be read)"):
        _labels_and_images(Shard(tar="cut.tar"))
    with tarfile.open("bare.tar", "w") as archive:
        _add(archive, "a.png", (photos / "red" / "0.png").read_bytes())
    with pytest.raises(FoldcamError, match=r"bare\.tar: a has no label"):
        _labels_and_images(Shard(tar="bare.tar"))
    with pytest.raises(FoldcamError, match=r"none\.tar cannot be read"):
        Shard(tar="none.tar").stamp()


def test_what_no_engine_or_only_ray_reads_is_refused(working_directory, foldcam, served):
    Path("urls.csv").write_text("path,label\nhttps://somewhere.example/a.jpg,a\n")
    with pytest.raises(FoldcamError, match="only foldcam bank build --engine ray"):
        load_dataset(Path("urls.csv"))
    status, _, err = foldcam("bank", "build", "demo", "--images", "https://a.example/x.csv")
    assert status == 1
    assert "--engine ray" in err
    for text, sentence in [
        (f"{served}/photos", "is neither a .csv nor .tar files"),
        (f"{served}/none.csv", "none.csv cannot be read"),
        ("nosuch://a/x.csv", "nosuch://a/x.csv cannot be read"),
        ("x-{3..1}.tar", "names no files"),
        ("x-{1..3}.zip", "a pattern names .tar files"),
    ]:
        with pytest.raises(FoldcamError, match=sentence):
            load_sharded(text, "train", 5)
