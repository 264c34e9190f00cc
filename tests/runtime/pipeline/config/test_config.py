"""One tree for everything: from TOML, from flags, from Python; every complaint names its key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec import inspect

from foldcam.runtime.pipeline.config import (
    RunConfig,
    SourceConfig,
    config_from,
    load_config,
    with_secrets,
)
from foldcam.runtime.pipeline.config.keys import KEYS, SECTIONS, read_value
from foldcam.runtime.pipeline.config.loading import (
    commented_file,
    line_of,
    merged,
    parse_toml,
    public_document,
)
from foldcam.runtime.sinks.event_rules import EventRule
from foldcam.runtime.system.documents import KeyProblem
from foldcam.runtime.system.errors import FoldcamError

FULL = """
[model]
path = "m.onnx"
threads = 2

[[source]]
uri = "rtsp://me:secret@cam/live"
every = 3
crop = [0, 0, 64, 48]

[[source]]
camera = 1
rotate = 90

[flow]
keep = "newest"
stall_seconds = 5          # an integer is a number

[style]
mark = "contour"

[output]
jsonl = "out.jsonl"
events = "events/"

[[event]]
name = "unknown"
similarity_below = 0.4
hysteresis = 0.05

[serve]
port = 0
"""


@pytest.fixture
def write(tmp_path):
    """Writes a TOML file."""

    def write(text: str) -> Path:
        path = tmp_path / "run.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_every_key_has_a_sentence_and_a_flag_of_its_own():
    assert all(key.help.endswith(".") for key in KEYS)
    assert [*SECTIONS] == list(dict.fromkeys(key.section for key in KEYS))
    flags = [key.flag for key in KEYS if key.flag]
    assert len(flags) == len(set(flags)) > 60
    texts = [line for line in commented_file().splitlines() if " = " in line]
    assert len([line for line in texts if line.startswith("#")]) >= len(KEYS) > 80


def _numbers(kind):
    """The ranges of all numbers in a type; None where one has none."""
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        low, high = kind.ge if kind.gt is None else kind.gt, kind.le
        yield None if low is None or high is None else (low, high)
    for inner in (getattr(kind, "item_type", None), *getattr(kind, "item_types", ()),
                  *getattr(kind, "types", ())):  # fmt: skip
        yield from _numbers(inner) if inner is not None else ()


def test_every_number_has_limits_that_hold_its_default():
    found = 0
    for key in KEYS:
        limits = [*_numbers(inspect.type_info(key.kind))]
        assert None not in limits, key.path
        found += len(limits)
        if key.default is not None:
            given = list(key.default) if isinstance(key.default, tuple) else key.default
            assert read_value(key.kind, given, key.path) == key.default
    assert found > 40


def test_a_file_becomes_the_tree(write):
    config = load_config(write(FULL))
    assert config.sources == (
        SourceConfig(uri="rtsp://me:secret@cam/live", every=3, crop=(0, 0, 64, 48)),
        SourceConfig(camera=1, rotate=90),
    )
    assert config.flow.stall_seconds == 5.0
    assert isinstance(config.flow.stall_seconds, float)
    assert config.style.mark == "contour"
    assert config.events == (EventRule("unknown", similarity_below=0.4, hysteresis=0.05),)
    assert config.serve is not None
    assert config.serve.port == 0
    assert load_config(write("")) == RunConfig()


def test_flags_come_before_the_file(write):
    path = write(FULL)
    config = load_config(path, {"style": {"mark": "box"}, "source": {"every": 7}})
    assert (config.style.mark, config.output.jsonl) == ("box", "out.jsonl")
    assert [source.every for source in config.sources] == [7, 7]
    assert [source.rotate for source in config.sources] == [0, 90]
    config = load_config(path, {"source": {"given": [{"file": "a.mp4"}]}})
    assert config.sources == (SourceConfig(file="a.mp4"),)
    assert merged({}, {"serve": {"port": 1}}) == {"serve": {"port": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[styel]\n", r"line 1: styel is unknown \(did you mean style\?\)"),
        ("[style]\nopactiy = 1\n", r"line 2: style.opactiy is unknown \(did you mean style.op"),
        ("jsonl = 'x'\n", r"line 1: jsonl is unknown \(did you mean output.jsonl\?\)"),
        ("[style]\n\nopacity = 'much'\n", "line 3: style.opacity is a string where a number"),
        ("[style]\nopacity = 1.5\n", "style.opacity is 1.5 where at most 1 is allowed"),
        ("[style]\nopacity = nan\n", "style.opacity is not finite"),
        ("[style]\nopacity = true\n", "style.opacity is true or false where a number"),
        ("[style]\nmark = 'contuor'\n", r"style.mark is 'contuor' .* \(did you mean contour\?\)"),
        ("[flow]\nqueue = 2.0\n", "flow.queue is a number where an integer"),
        ("[flow]\nqueue = 99999999999999999999\n", "flow.queue is a huge integer"),
        ("[flow]\nqueue = 0\n", "flow.queue is 0 where at least 1"),
        ("[flow]\nkeep = 1979-05-27\n", "flow.keep is a date or time"),
        ("[output]\nembedding = 1\n", "output.embedding is an integer where true or false"),
        ("[output]\nsinks = ['a:b', 2]\n", r"output.sinks\[1\] is an integer"),
        ("[regions]\ngrid = [3]\n", "line 2: regions.grid has 1 values where 2"),
        ("[regions]\nboxes = [[0,0,5,5],[0,0,5,0]]\n", r"regions.boxes\[1\] has no area"),
        ("[regions]\ngrid = [2, 2]\ndetector = 'a:b'\n", "regions has grid and detector"),
        ("model = 3\n", "line 1: model is an integer where a table"),
        ("source = 3\n", "source is an integer where an array"),
        ("[[source]]\ncamera = 0\n[[source]]\nevery = 2\ncamera = 1\nfile = 'a'\n",
         r"line 3: source\[1\] needs exactly one of camera, file and uri, and has camera and file"),
        ("[[source]]\ncamera = 0\n[[source]]\ncamera = 1\nevery = 0\n",
         r"line 5: source\[1\].every is 0 where at least 1"),
        ("[[source]]\ncamera = -1\n", r"source\[0\].camera is -1"),
        ("[[source]]\ncamera = 0\nrotate = 45\n", "rotate is 45 where one of 0, 90, 180, 270"),
        ("[[event]]\nname = 'a'\n", r"line 1: event\[0\].label is missing, and so is every other"),
        ("[[event]]\nname = 'a/b'\nlabel = 'x'\n", r"line 2: event\[0\].name must be of"),
        ("[[event]]\nname = 'a'\nwhen = 'label is x'\n",
         r"line 3: event\[0\].when is unknown \(conditions are keys of .*unknown = true"),
        ("[[event]]\nname = 'a'\nlabl = 'x'\n",
         r"line 3: event\[0\].labl is unknown \(did you mean event\[0\].label\?\)"),
        ("[[event]]\nname = 'a'\nsimilarity_above = 0.1\n[[event]]\nname='b'\nheat_in=[0,0,5,0]\n"
         "heat_above = 0.5\n", r"line 6: event\[1\].heat_in has no area"),
        ("[[event]]\nname = 'a'\nlabel = 'x'\n[[event]]\nname = 'a'\nlabel = 'y'\n",
         r"line 5: event\[1\].name is 'a', as that of another event"),
        ("[output]\nevents = 'e'\n", "output.events needs an event"),
        ("[[event]]\nname = 'a'\nlabel = 'x'\n", "event has nowhere to go"),
        ("[model]\nbuild = true\n", "model.build needs model.backend"),
        ("[flow]\nbackoff_seconds = 50\n", "flow.backoff_most_seconds is below"),
        ("[serve]\nport = 70000\n", "serve.port is 70000"),
        ('[model]\npath = "a\\u0000b"\n', "model.path has a null byte"),
        ("a = [\n", "is not TOML"),
        ("a = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a = " + "9" * 5000, "is not TOML|unknown"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_its_key(write, text, message):
    with pytest.raises(FoldcamError, match=message):
        load_config(write(text))


def test_files_that_are_none(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b"a = '\xff'")
    for name, message in (
        ("none.toml", "cannot be read"), ("latin.toml", "is not UTF-8"), (".", "no regular file"),
        ("a\0b", "is not a file name"), ("/dev/zero", "no regular file"),
    ):  # fmt: skip
        with pytest.raises(FoldcamError, match=message):
            load_config(tmp_path / name)


def test_lines_of_windows_are_read(write):
    assert load_config(write(FULL.replace("\n", "\r\n"))) == load_config(write(FULL))


def test_a_key_within_a_string_has_no_line():
    text = '[output]\nsave = """\nopacity = 3\n"""\n[style]\nopacity = 9\n'
    assert parse_toml(text, "x")["style"] == {"opacity": 9}
    assert line_of(text, "style.opacity") is None


def test_the_commented_file_is_right_and_changes_nothing(write):
    assert load_config(write(commented_file())) == RunConfig()
    text = commented_file()
    for key in KEYS:
        assert f"{key.name} = " in text


def test_each_commented_value_is_right_by_itself():
    """Every value that the file shows can be switched on."""
    for key in KEYS:
        read_value(key.kind, parse_toml(f"x = {key.shown}", "x")["x"], key.path)


def test_no_secret_is_shown(write):
    text = FULL + 'token = "hunter2"\n' + "\n[output2]\n"
    text = text.replace("[output2]\n", "").replace(
        'jsonl = "out.jsonl"', 'jsonl = "out.jsonl"\nmqtt = "mqtts://me:secret@b/t"'
    )
    config = load_config(write(text))
    shown = json.dumps(public_document(config))
    assert "hunter2" not in shown + repr(config)
    assert "secret" not in shown + repr(config)
    assert '"mqtts://***@b/t"' in shown
    assert '"rtsp://***@cam/live"' in shown


def test_messages_show_no_secret(write):
    with pytest.raises(FoldcamError) as caught:
        load_config(write("[style]\nmark = 'rtsp://me:secret@cam'\n"))
    assert "me:secret" not in str(caught.value)
    assert "rtsp://***@cam" in str(caught.value)


def test_the_token_comes_from_its_file_or_the_environment(write, tmp_path):
    bare = config_from({"serve": {}})
    assert with_secrets(bare, {"FOLDCAM_TOKEN": "abc"}).serve.token == "abc"
    assert with_secrets(bare, {}).serve.token is None
    assert with_secrets(RunConfig(), {"FOLDCAM_TOKEN": "abc"}).serve is None
    path = tmp_path / "token"
    path.write_text("xyz\nmore\n")
    named = config_from({"serve": {"token_file": str(path)}})
    assert with_secrets(named, {"FOLDCAM_TOKEN": "abc"}).serve.token == "xyz"
    path.write_text("\n")
    with pytest.raises(FoldcamError, match="is empty"):
        with_secrets(named, {})
    path.unlink()
    with pytest.raises(FoldcamError, match="cannot be read"):
        with_secrets(named, {"FOLDCAM_TOKEN": "abc"})


def test_a_wrong_file_is_refused_even_where_flags_replace_what_is_wrong(write):
    with pytest.raises(FoldcamError, match=r"style\.opacity"):
        load_config(write("[style]\nopacity = 7\n"), {"style": {"opacity": 0.5}})


def test_python_builds_the_same():
    config = RunConfig(sources=(SourceConfig(camera=0, every=2),))
    assert config == config_from({"source": [{"camera": 0, "every": 2}]})
    assert config.sources[0].options.every == 2
    with pytest.raises(KeyProblem) as caught:
        config_from({"flow": {"batch": 0}})
    assert caught.value.key == "flow.batch"
