"""On a Ray cluster of this machine: one for the module, because it takes seconds to start."""

from __future__ import annotations

import csv
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from foldcam.export.banks.objectives.directions import parse_objective
from foldcam.export.datasets import load_dataset
from foldcam.export.exporting.bank_files import build_bank_file
from foldcam.export.exporting.scale_out import engine, workers
from foldcam.export.exporting.scale_out.engine import build_bank_file_on_ray
from foldcam.export.exporting.scale_out.sources import load_sharded
from foldcam.export.exporting.scale_out.workers import cluster
from foldcam.export.models.spec import load_model
from foldcam.runtime.system.errors import FoldcamError

# Not imported: an own cluster is bound to loopback when Ray is imported.
pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra foldcam[ray]"),
]
GOAL = parse_objective("all-triplets")

# Added to the network's file: what happens in a worker and not in the driver.
IN_WORKER = """
import os, signal
from pathlib import Path

DRIVER = {driver}


def dies_once():
    net, honest = bent(), bent().forward
    def forward(image):
        marker = Path({folder!r}) / "died"
        if os.getpid() != DRIVER and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Net.forward(net, image)
    net.forward = forward
    return net


@torch.library.custom_op("foldcam_test::" + __name__, mutates_args=())
def at_work(image: torch.Tensor) -> torch.Tensor:
    # An operator, because a network is traced when it is loaded: its Python runs only then.
    if os.getpid() != DRIVER and len(image) == 4:
        {deed}
    return image.clone()


@at_work.register_fake
def _(image):
    return torch.empty_like(image)


at_work.register_autograd(lambda _, gradient: gradient)


class Deadly(Net):
    def forward(self, image):
        return super().forward(at_work(image))


def deadly():
    torch.manual_seed(0)
    return Deadly(True)


def other():
    return make(seed=0 if os.getpid() == DRIVER else 1)
"""


@pytest.fixture(scope="module", autouse=True)
def one_cluster():
    with cluster(None, 2):
        yield


def _local(model, images):
    dataset = load_dataset(Path(images))
    return build_bank_file(load_model(model), dataset, Path("l.safetensors"), GOAL).report.bank


def _on_ray(model, images, count=1, size=4, **more):
    return build_bank_file_on_ray(
        model,
        load_sharded(str(images), "train", size),
        Path("r.safetensors"),
        GOAL,
        workers=count,
        batch_size=4,
        **more,
    )


def _assert_same(found, expected):
    np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=1e-5)
    np.testing.assert_allclose(found.row_grad_weights(), expected.row_grad_weights(), atol=1e-5)
    np.testing.assert_array_equal(found.image_hashes, expected.image_hashes)
    assert found.labels == expected.labels


def test_the_cluster_listens_on_loopback_alone_and_reports_to_nobody():
    listed = subprocess.run(["ss", "-ltnp"], capture_output=True, text=True, check=False)
    if listed.returncode or "pid=" not in listed.stdout:
        pytest.skip("needs ss and the right to see this process's sockets")
    ours = [line.split()[3] for line in listed.stdout.splitlines() if "raylet" in line]
    assert ours
    assert all("127.0.0.1" in address or "[::1]" in address for address in ours)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.parametrize("kind", ["dies_once"])
def test_a_worker_that_is_killed_loses_nothing(net, kind, shared_photos, working_directory):
    source = IN_WORKER.format(driver=os.getpid(), folder=str(working_directory), deed="pass")
    # Before anything is imported from it.
    net.path.write_text(net.path.read_text() + source)
    expected = _local(net.bent, shared_photos)
    model = net.bent.replace(":bent", f":{kind}")
    made = _on_ray(model, shared_photos, 2)
    assert (working_directory / "died").exists()
    _assert_same(made.built.report.bank, expected)


@pytest.mark.parametrize(
    ("deed", "kind", "sentence"),
    [
        ("raise MemoryError", "deadly", r"ran out of memory while it worked on .*0\.png to"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "deadly", r"died 2 times while .*0\.png to"),
        ("pass", "other", "A worker has another network: scaled_net"),
    ],
)
def test_what_goes_wrong_in_a_worker_is_one_sentence(
    deed, kind, sentence, net, shared_photos, working_directory, monkeypatch
):
    # Each further try is a process that loads torch.
    monkeypatch.setattr(workers, "_RETRIES", 1)
    source = IN_WORKER.format(driver=os.getpid(), folder=str(working_directory), deed=deed)
    net.path.write_text(net.path.read_text() + source)
    with pytest.raises(FoldcamError, match=sentence):
        _on_ray(net.bent.replace(":bent", f":{kind}"), shared_photos)
    assert not Path("r.safetensors").exists()


def test_crops_are_rows_and_what_the_data_show_is_said(net, photos):
    rows = [f"{label}/{n}.png,{label},{x},1,9,12"
            for label in ("blue", "red") for n in range(3) for x in (0, 8)]  # fmt: skip
    rows += ["red/0.png,blue,0,1,9,12", "red/1.png,red,15,-3,400,12"]
    table = photos / "crops.csv"
    table.write_text("path,label,x,y,w,h\n" + "\n".join(rows) + "\n")
    dataset = load_dataset(table)
    expected = build_bank_file(load_model(net.bent), dataset, Path("l.safetensors"), GOAL)
    made = _on_ray(net.bent, table).built
    _assert_same(made.report.bank, expected.report.bank)
    assert made.notes == expected.notes
    assert any("The same picture under different labels" in note for note in made.notes)
    assert any("1 box reaches beyond" in note for note in made.notes)


def test_more_workers_than_cores_are_refused(net, shared_photos):
    with pytest.raises(FoldcamError, match="--workers 3: the cluster has 2 processor cores"):
        _on_ray(net.bent, shared_photos, 3)


def test_photographs_give_the_bank_of_one_machine(cub_root, working_directory, monkeypatch):
    samples = load_dataset(cub_root).samples
    few = [s for label in sorted({s.label for s in samples})[:3] for s in samples
           if s.label == label][::12]  # fmt: skip
    with Path("few.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [("path", "label"), *((str(s.path.absolute()), s.label) for s in few)]
        )
    # The driver and the one machine take the same network; the worker loads its own.
    loaded = load_model("demo")
    monkeypatch.setattr(engine, "load_model", lambda *_: loaded)
    dataset = load_dataset(Path("few.csv"))
    expected = build_bank_file(loaded, dataset, Path("l.safetensors"), GOAL).report.bank
    _assert_same(_on_ray("demo", "few.csv").built.report.bank, expected)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("127.0.0.1:1", "Nothing answers at --address 127.0.0.1:1"),
        ("head", "'head' is not HOST:PORT"),
        ("ray://head:10001", "give HOST:PORT of the cluster's head"),
    ],
)
def test_an_address_that_does_not_answer_is_named(address, sentence, net, shared_photos, foldcam):
    status, _, err = foldcam("bank", "build", net.linear, "--images", shared_photos, "--engine",
                             "ray", "--address", address)  # fmt: skip
    assert status == 1
    assert sentence in err
    assert "Traceback" not in err
