"""No output destroys an input or another output, however either is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from foldcam.runtime.contract.at_stake import (
    Read,
    Written,
    check_outputs,
    keep_network,
    network_file,
)
from foldcam.runtime.system.errors import FoldcamError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(reads, *writes) -> str:
    with pytest.raises(FoldcamError) as caught:
        check_outputs(reads, [Written(*each) for each in writes])
    return str(caught.value)


def spellings(target: Path) -> list[Path | str]:
    """Other names of one file."""
    (target.parent / "soft").symlink_to(target.name)
    (target.parent / "hard").hardlink_to(target)
    (target.parent / "folder").mkdir()
    (target.parent / "here").symlink_to(".")
    return [
        target, target.name, f"./{target.name}", f"folder/../{target.name}", "soft", "hard",
        f"here/{target.name}", f"//{str(target).lstrip('/')}",
    ]  # fmt: skip


def test_an_input_by_any_name_is_no_output(here):
    target = here / "net.onnx"
    target.write_bytes(b"x")
    for name in spellings(target):
        for read, written in ((target, name), (name, target)):
            text = refused([Read("the model", read)], ("--out", written))
            assert text == f"--out {Path(written)} is the model itself: give another name."


def test_two_outputs_are_two_files_also_before_there_are_any(here):
    text = refused([], ("--jsonl", "x"), ("--parquet", "./x"))
    assert text == "--jsonl and --parquet would write one file, x: give each a name of its own."
    Path("a").mkdir()
    Path("b").symlink_to("a")
    assert "--bank" in refused([], ("--out", "a/z"), ("--bank", "b/z"))


def test_what_lies_beside_or_within_an_input_is_an_input(here):
    Path("photos/owl").mkdir(parents=True)
    Path("photos/owl/1.jpg").write_bytes(b"x")
    Path("list.csv").write_text("path,label\nphotos/owl/1.jpg,owl\nbad\x01\n")
    Path("net.onnx").touch()
    Path("net.onnx.data").touch()
    Path("second.jpg").hardlink_to("photos/owl/1.jpg")
    for source in ("photos", "list.csv"):
        for name in ("photos/owl/1.jpg", "second.jpg"):
            assert "is a part of" in refused([Read("--images", source)], ("--picture", name))
    assert "holds weights" in refused([Read("MODEL", "net.onnx")], ("--out", "net.onnx.data"))
    # What was written there by an earlier run may be written again.
    Path("photos/model.onnx").touch()
    check_outputs([Read("--images", "photos")], [Written("--out", "photos/model.onnx")])
    check_outputs([Read("--images", "photos")], [Written("--picture", "photos/owl/new.jpg")])


def test_what_names_no_file_is_no_input(here):
    reads = [Read("MODEL", "package.module:make"), Read("MODEL", "demo"), Read("--weights", None)]
    check_outputs(reads, [Written("--out", "model.onnx"), Written("--bank", None)])
    Path("broken.csv").write_bytes(b'"\0')
    check_outputs([Read("--images", "broken.csv")], [Written("--out", "broken.csv.onnx")])


def test_a_network_is_not_replaced_by_a_folded_model(here, tiny_model):
    import onnx

    shutil.copy(tiny_model, "folded.onnx")
    keep_network("--out", Path("folded.onnx"))
    keep_network("--out", Path("none.onnx"))
    Path("half.onnx").write_bytes(b"\xff" * 100)
    keep_network("--out", Path("half.onnx"))
    model = onnx.load(tiny_model)
    del model.metadata_props[:]
    onnx.save(model, "net.onnx")
    with pytest.raises(FoldcamError, match=r"would be lost: give another name.*net\.folded\.onnx"):
        keep_network("--out", Path("net.onnx"))


def test_a_network_may_be_named_with_its_output(here):
    Path("a#b.onnx").touch()
    assert network_file("a#b.onnx") == Path("a#b.onnx")
    assert network_file("net.onnx#embedding") == Path("net.onnx")


@pytest.mark.parametrize(
    "flags",
    [
        ["--jsonl", "{model}"],
        ["--parquet", "{model}"],
        ["--jsonl", "{config}"],
        ["--jsonl", "{token}"],
        ["--jsonl", "{photo}"],
        ["--save", "{photo}"],
        ["--parquet", "{boxes}"],
        ["--jsonl", "{boxes}"],
        ["--jsonl", "new", "--parquet", "./new"],
        ["--save", "new.jpg", "--jsonl", "new.jpg"],
        ["--save", "out", "--images", "out/"],
    ],
)
def test_a_run_leaves_what_it_reads_alone(flags, here, runtime, tiny_model, photo):
    paths = {
        "model": here / "model.onnx", "config": here / "run.toml", "token": here / "token",
        "photo": photo("a.jpg"), "boxes": here / "boxes.jsonl",
    }  # fmt: skip
    shutil.copy(tiny_model, paths["model"])
    paths["config"].write_text(
        f'[serve]\nport = 0\ntoken_file = "{paths["token"]}"\n'
        f'[regions]\nfile = "{paths["boxes"]}"\n'
    )
    paths["token"].write_text("x" * 40)
    paths["boxes"].write_text('{"source": "a", "frame": 0, "boxes": []}\n')
    before = {name: path.read_bytes() for name, path in paths.items()}
    done = runtime(
        "run", paths["model"], "--config", paths["config"], "--file", paths["photo"],
        *(flag.format(**paths) for flag in flags),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    (error,) = done.stderr.splitlines()
    assert (
        "itself: give another name" in error or "give each a name" in error or "same pict" in error
    )
    assert {name: path.read_bytes() for name, path in paths.items()} == before
    assert not list((here / "working").iterdir())


def test_two_runs_at_once_into_one_folder(here, make_model, photo, make_sources):
    """Photographs have names that come again: the second run is refused while the first goes on."""
    from foldcam.runtime.sinks import open_outputs
    from foldcam.runtime.sinks.options import OutputOptions

    photo("a.png")
    photo("b.png")
    source = make_sources(here / "photos")
    for options in (
        OutputOptions(save="out"),
        OutputOptions(images="out"),
        OutputOptions(jsonl="out/r.jsonl"),
    ):
        first = open_outputs([source], options)
        with pytest.raises(FoldcamError, match="Another run is writing out"):
            open_outputs([source], options)
        for sink in first:
            sink.__exit__(None, None, None)
        for sink in open_outputs([source], options):
            sink.__exit__(None, None, None)
    assert list(Path("out").iterdir()) == [Path("out/r.jsonl")]


@pytest.fixture
def make_sources():
    from foldcam.runtime.sources import open_source

    return lambda path: open_source(file=str(path))
