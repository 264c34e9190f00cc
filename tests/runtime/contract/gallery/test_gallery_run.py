"""`runtime run` with a gallery: found beside the model, named, missing, or another model's."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from foldcam.runtime.images.files import read_image


@pytest.fixture
def model(tiny_model, tmp_path):
    """A model in a folder of its own."""
    return shutil.copy(tiny_model, tmp_path / "tiny.onnx")


@pytest.fixture
def foreign(contract_with, gallery_of):
    """The gallery of another bank."""

    def write(name):
        contract = contract_with()
        bank = dataclasses.replace(contract.bank, sha256="7" * 64)
        return gallery_of(dataclasses.replace(contract, bank=bank), name)

    return write


def test_the_gallery_beside_the_model_is_drawn_beside_the_frame(
    runtime, model, gallery_of, photo, tmp_path
):
    gallery_of()
    red = photo("a.png", height=120, width=160)
    done = runtime(
        "run", model, "--file", red, "--beside", "--opacity", "0", "--no-caption",
        "--save", tmp_path / "a.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    drawn = read_image(tmp_path / "a.png")
    assert drawn.shape[0] == 120
    # The panel's picture is the red row's.
    assert abs(drawn[20, 200].astype(int) - (210, 40, 20)).max() < 8


def test_beside_without_a_gallery_is_refused_before_the_run(runtime, model, photo, tmp_path):
    out = tmp_path / "out"
    done = runtime("run", model, "--file", photo("a.png"), "--beside", "--save", out)
    assert done.returncode == 1
    assert done.stderr.startswith("error: --beside needs the pictures of the bank, and there is no")
    assert "foldcam gallery" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_the_gallery_of_another_model_is_refused_where_it_is_needed(
    runtime, model, foreign, photo, tmp_path
):
    foreign("tiny.gallery")
    red = photo("a.png")
    assert runtime("run", model, "--file", red, "--save", tmp_path / "x.png").returncode == 0
    for flags in (("--beside", "--save", tmp_path / "y.png"), ("--report", tmp_path / "out")):
        done = runtime("run", model, "--file", red, *flags)
        assert done.returncode == 1
        assert "is the gallery of another bank than the model's" in done.stderr
        assert done.stderr.count("\n") == 1
    done = runtime("run", model, "--file", red, "--gallery", tmp_path / "none.gallery")
    assert "none.gallery does not exist" in done.stderr


def test_a_report_of_a_folder_has_matches_and_what_was_skipped(
    runtime, model, gallery_of, photo, tmp_path
):
    named = gallery_of(name="elsewhere.gallery")
    folder = photo("a.png", (200, 30, 20)).parent
    photo("sub/b.png", (20, 30, 200))
    (folder / "broken.png").write_text("no picture")
    done = runtime("run", model, "--file", folder, "--report", tmp_path / "out", "--gallery", named)
    assert done.returncode == 0, done.stderr
    assert f"wrote {tmp_path}/out/report.html" in done.stdout
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "matched to<br>red/1.png" in page
    assert "matched to<br>blue/1.png" in page
    assert 'data-name="sub/b.png"' in page
    assert "broken.png: not an image" in page


def test_thumbnails_of_labels_are_no_longer_an_option(runtime, tmp_path):
    (tmp_path / "run.toml").write_text('[serve]\nthumbnails = "pictures/"\n')
    done = runtime("config", "check", tmp_path / "run.toml")
    assert done.returncode == 1
    assert "serve.thumbnails is unknown (the live page shows the matched pictures" in done.stderr
