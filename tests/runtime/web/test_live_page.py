"""The page as a sink."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from foldcam.runtime.sources.options import ServeOptions
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.monitor import Monitor
from foldcam.runtime.web import LivePage, broadcast


def test_it_is_a_sink_that_may_miss_results_and_leaves_nothing(serve):
    page = serve().page
    assert (page.name, page.may_skip, page.output) == ("live page", True, None)


def test_writing_does_not_wait_for_the_encoder(serve, make_item, monkeypatch):
    encoding, release = threading.Event(), threading.Event()

    def stuck(item):
        encoding.set()
        release.wait(10)
        return b"\0\0\0\0"

    monkeypatch.setattr(broadcast, "encode_packet", stuck)
    served = serve()
    with served.watch() as client:
        client.recv(5)
        client.send('{"watch": 0}')
        served.feed(make_item(0))
        assert encoding.wait(10)
        for index in range(1, 100):
            served.feed(make_item(index))
        assert not release.is_set()
        assert served.page._latest.of(0).count == 100
        release.set()


def test_only_the_newest_frame_of_each_stream_is_kept(serve, make_item):
    served = serve(streams=2)
    served.feed(*(make_item(index, stream=index % 2) for index in range(10)))
    assert [newest.item.frame.index for newest in served.page._latest.all()] == [8, 9]


def test_a_port_in_use_is_one_sentence(serve, contract_with):
    taken = serve().port
    page = LivePage(ServeOptions(port=taken), Monitor(), contract_with())
    with pytest.raises(FoldcamError, match=f"{taken}: the port is in use"), page:
        pass


def test_where_it_is_served_is_logged_without_the_token(contract_with, caplog, token):
    caplog.set_level("INFO", "foldcam.runtime.web")
    with LivePage(ServeOptions(port=0, token=token), Monitor(), contract_with()) as page:
        assert page.url.startswith("http://127.0.0.1:")
    said = [
        record.getMessage() for record in caplog.records if "foldcam.runtime.web" in record.name
    ]
    assert said == [f"the live page is at {page.url}"]


def test_the_port_is_free_again_at_once(contract_with, make_item):
    port = 0
    for _ in range(3):
        with LivePage(ServeOptions(port=port), Monitor(), contract_with()) as page:
            port = page._place[1]
            page.write(make_item())


def test_serving_to_others_without_a_token_is_refused(contract_with):
    with pytest.raises(FoldcamError, match="needs a token"):
        LivePage(ServeOptions(host="0.0.0.0", port=0), Monitor(), contract_with())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"port": 70000}, "port is 70000"),
        ({"clients": 0}, "clients are 0"),
        ({"fps": 0.0}, "fps is 0"),
    ],
)
def test_options_out_of_range_are_named(contract_with, wrong, message):
    with pytest.raises(FoldcamError, match=message):
        LivePage(ServeOptions(**wrong), Monitor(), contract_with())


def test_a_server_that_died_is_said_and_can_be_opened_again(serve, make_item):
    served = serve()
    loop = served.page._server._loop
    loop.call_soon_threadsafe(loop.stop)
    deadline = time.monotonic() + 10.0
    while not served.page._server.failure and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(FoldcamError, match="The live page is no longer served"):
        served.feed(make_item())
    served.page.reopen()
    served.feed(make_item(9))
    assert served.get("/healthz").status == 200


def test_without_the_extra_it_says_what_to_install(child_environment):
    code = (
        "import sys\n"
        "class Wall:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {blocked!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Wall())\n"
        "from foldcam.runtime.web import LivePage\n"
        "from foldcam.runtime.system.monitor import Monitor\n"
        "from foldcam.runtime.sources.options import ServeOptions\n"
        "try:\n"
        "    LivePage(ServeOptions(port=0), Monitor(), None)\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    for blocked in ("starlette", "uvicorn", "websockets", "prometheus_client"):
        done = subprocess.run(
            [sys.executable, "-c", code.replace("{blocked!r}", repr((blocked,)))],
            env=child_environment(), capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout == (
            f"FoldcamError This needs {blocked}, which is not installed: "
            "pip install 'foldcam[live]'.\n"
        )


def test_the_help_does_not_load_it(child_environment):
    code = (
        "import sys; sys.argv = ['runtime', '--help']\n"
        "class Wall:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('starlette', 'uvicorn', 'prometheus_client'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Wall())\n"
        "from foldcam.runtime.cli.runtime import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
