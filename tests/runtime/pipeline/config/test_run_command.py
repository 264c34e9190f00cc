"""The command's flags are the configuration's keys, and say what is wrong by their own names."""

from __future__ import annotations

import json

import pytest
import typer

from foldcam.runtime.pipeline.config.flags import table_of


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--opacity", "7"], "--opacity is 7 where at most 1"),
        (["--crop", "1,2,3"], "--crop is '1,2,3' where x,y,width,height"),
        (["--crop", "0,0,0,5"], "source[0].crop has no area"),
        (["--grid", "3"], "--grid is '3' where columns and rows"),
        (["--region", "1,2,3,4", "--grid", "2x2"], "regions has boxes and grid"),
        (["--rotate", "45"], "--rotate"),
        (["--keep", "sometimes"], "--keep"),
        (
            ["--event", "name=x,weather=3", "--events", "e"],
            "weather is unknown (known here: name, label",
        ),
        (["--event", "label=owl"], "event has nowhere to go"),
        (
            ["--event", "label is owl"],
            "needs the form KEY=VALUE, such as name=unknown,unknown=true",
        ),
        (["--serve", "host:99999"], "--serve is 'host:99999' where [HOST:]PORT"),
        (["--serve", "::1"], "--serve"),
        (["--clients", "3"], "serve has clients and is not switched on: give --serve"),
        (["--every", "0"], "--every is 0 where at least 1"),
    ],
)
def test_wrong_flags_exit_2_and_are_named(runtime, arguments, message):
    done = runtime("run", "--file", "x", *arguments)
    assert done.returncode == 2
    said = " ".join(done.stderr.replace("│", " ").split())
    assert message in said
    assert "Traceback" not in done.stderr


def test_flags_become_the_tree():
    from typer.main import get_command

    from foldcam.runtime.cli import runtime as cli
    from foldcam.runtime.pipeline.config.loading import config_from, merged

    command = get_command(cli.app).commands["run"]
    words = (
        "--rotate 90 --crop 1,2,30,40 --every 3 --region 0,0,9,9 --region 1,1,8,8 --no-reconnect "
        "--mark box --rotate-minutes 5 --sink a:b --sink c:d --log-format json --fps 12.5"
    )
    context = command.make_context("run", [*words.split(), "--camera", "0"])
    flags = {name: value for name, value in context.params.items() if "_" in name}
    table = table_of(
        flags,
        cameras=[0, 1],
        serve="[::1]:99",
        events=["name=odd,not_label=owl,for_seconds=2"],
        quiet=True,
    )
    table["output"]["events"] = "e"
    config = config_from(merged({}, table))
    assert [source.camera for source in config.sources] == [0, 1]
    assert config.sources[1].rotate == 90
    assert (config.sources[0].crop, config.sources[0].fps) == ((1, 2, 30, 40), 12.5)
    assert config.regions.boxes == ((0, 0, 9, 9), (1, 1, 8, 8))
    assert config.flow.reconnect is False
    assert config.output.sinks == ("a:b", "c:d")
    assert (config.serve.host, config.serve.port) == ("::1", 99)
    assert (config.events[0].name, config.events[0].for_seconds) == ("odd", 2.0)
    assert (config.log.status, config.log.format) == (False, "json")
    assert config.recording.rotate_minutes == 5.0


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("8080", {"port": 8080}),
        ("0", {"port": 0}),
        ("0.0.0.0:80", {"host": "0.0.0.0", "port": 80}),
        ("[::1]:8080", {"host": "::1", "port": 8080}),
        ("box.local:9000", {"host": "box.local", "port": 9000}),
    ],
)
def test_an_address_to_serve_on_is_a_port_or_a_host_and_a_port(text, table):
    assert table_of({}, serve=text)["serve"] == table


@pytest.mark.parametrize(
    "text", ["", "eighty", "0.0.0.0", "1.2.3.4:", "65536", "-1", "1:x", "::1:8"]
)
def test_any_other_address_to_serve_on_is_refused(text):
    with pytest.raises(typer.BadParameter, match=r"where \[HOST:\]PORT is needed"):
        table_of({}, serve=text)


def test_config_init_and_check(runtime, tmp_path):
    working = tmp_path / "working"
    done = runtime("config", "init")
    assert done.returncode == 0, done.stderr
    assert "[[source]]" in (working / "foldcam.toml").read_text()
    again = runtime("config", "init")
    assert again.returncode == 1
    assert "exists" in again.stderr
    assert runtime("config", "init", "--force").returncode == 0
    assert runtime("config", "init", "-").stdout == (working / "foldcam.toml").read_text()
    done = runtime("config", "check", "foldcam.toml")
    assert (done.returncode, done.stdout) == (0, "foldcam.toml is right: 0 sources, 0 events\n")
    (working / "bad.toml").write_text("[style]\nopacity = 3\n")
    done = runtime("config", "check", "bad.toml")
    assert done.returncode == 1
    assert done.stderr.startswith("error: bad.toml, line 2: style.opacity is 3 ")
    (working / "url.toml").write_text("[[source]]\nuri = 'rtsp://me:secret@cam/x'\n")
    done = runtime("config", "check", "url.toml", "--json")
    assert json.loads(done.stdout)["sources"][0]["uri"] == "rtsp://***@cam/x"


def test_a_run_from_a_file_with_a_flag_over_it(runtime, tiny_model, photo, tmp_path):
    path = photo("a.png")
    config = tmp_path / "working" / "run.toml"
    config.write_text(
        f"[model]\npath = '{tiny_model}'\n[[source]]\nfile = '{path}'\n"
        "[output]\nsave = 'out/'\njsonl = 'a.jsonl'\n"
    )
    done = runtime("run", "--config", config, "--jsonl", "b.jsonl", "--quiet")
    assert done.returncode == 0, done.stderr
    made = {entry.name for entry in (tmp_path / "working").iterdir()}
    assert made == {"run.toml", "out", "b.jsonl"}


def test_a_file_without_a_source_needs_one(runtime, tmp_path):
    (tmp_path / "working" / "run.toml").write_text("[style]\nmark = 'box'\n")
    done = runtime("run", "--config", "run.toml")
    assert done.returncode == 1
    assert "There is no source" in done.stderr


def test_credentials_of_a_source_are_in_no_message(runtime):
    done = runtime("run", "--source", "gopher://me:secret@cam/live")
    assert done.returncode == 1
    assert "secret" not in done.stderr
    assert "gopher://***@cam/live" in done.stderr
