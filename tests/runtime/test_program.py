"""How a program begins and ends: closed streams, signals, users' code that ends it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

USER_CODE = """
import os, sys
from foldcam.runtime import FoldcamError

class Sink:
    name, may_skip, output = "own", False, None
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def write(self, item): pass

class Exits(Sink):
    def write(self, item): sys.exit(0)

class Interrupts(Sink):
    def write(self, item): raise KeyboardInterrupt

class Breaks(Sink):
    def write(self, item): raise ValueError("the shelf\\x1b[2J is full")

class Full(Sink):
    def write(self, item):
        if item.frame.index == 3: raise FoldcamError("the shelf is full")

class Leaves(Sink):
    def __exit__(self, *_): raise SystemExit(7)

class Talks(Sink):
    def write(self, item):
        print("{garbage")
        os.system("echo garbage of a child")

def exits(sources): return Exits()
def interrupts(sources): return Interrupts()
def breaks(sources): return Breaks()
def full(sources): return Full()
def leaves(sources): return Leaves()
def talks(sources): return Talks()
def at_once(sources): sys.exit("no")
def interrupted(sources): raise KeyboardInterrupt
def boxes(image): raise ValueError("no")
def exit_boxes(image): sys.exit(0)
def interrupt_boxes(image): raise KeyboardInterrupt
"""


@pytest.fixture
def own_code(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own_code.py").write_text(USER_CODE)
    (folder / "leaving.py").write_text("raise SystemExit(0)\n")
    (folder / "interrupting.py").write_text("raise KeyboardInterrupt\n")
    return folder


def started(code: str, *arguments: object) -> list[str]:
    """A program in a process that first runs some code."""
    return [
        sys.executable, "-c", f"import sys; sys.argv[0] = 'runtime'\n{code}\n"
        "from foldcam.runtime.cli.entry import runtime; runtime()", *map(str, arguments),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--sink", "own_code:exits", "failed on frame 0: SystemExit: 0."),
        ("--sink", "own_code:interrupts", "failed on frame 0: KeyboardInterrupt."),
        ("--sink", "own_code:breaks", "failed on frame 0: ValueError: the shelf\\x1b[2J is full."),
        ("--sink", "own_code:leaves", "failed when it was left: SystemExit: 7."),
        ("--sink", "own_code:at_once", "failed when it was opened: SystemExit: no."),
        ("--sink", "own_code:interrupted", "failed when it was opened: KeyboardInterrupt."),
        ("--sink", "leaving:make", "cannot be imported: SystemExit: 0."),
        ("--sink", "interrupting:make", "cannot be imported: KeyboardInterrupt."),
        ("--detector", "own_code:exit_boxes", "SystemExit: 0."),
        ("--detector", "own_code:interrupt_boxes", "KeyboardInterrupt."),
    ],
)
def test_code_of_the_users_that_ends_the_program_is_an_error(
    runtime, tiny_model, own_code, option, value, sentence
):
    done = runtime(
        "run", tiny_model, "--source", "test://?size=64x48&frames=5", option, value, "--quiet",
        cwd=own_code,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith(f"{sentence}\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("output", [["--json"], ["--jsonl", "-"]])
def test_what_users_code_prints_does_not_reach_the_results(runtime, tiny_model, own_code, output):
    done = runtime(
        "run", tiny_model, "--source", "test://?size=64x48&frames=3", "--sink", "own_code:talks",
        "--quiet", *output, cwd=own_code,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("garbage of a child") == 3
    if output == ["--json"]:
        assert json.loads(done.stdout)["frames"] == 3
    else:
        assert [json.loads(line)["frame"] for line in done.stdout.splitlines()] == [0, 1, 2]


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        (["--sink", "own_code:full"], "error: the shelf is full\n"),
        (["--detector", "own_code:boxes"], "ValueError: no.\n"),
        (["--jsonl", "/dev/full"], "No space left on the disk of /dev"),
    ],
)
def test_a_run_that_fails_with_frames_in_flight_ends_in_order(
    tiny_model, child_environment, own_code, end, sentence
):
    """It aborted in a third of the runs: a thread came back from a library too late."""
    for _ in range(12):
        done = subprocess.run(
            [sys.executable, "-m", "foldcam.runtime", "run", str(tiny_model),
             "--source", "test://?size=320x240&frames=2000", "--quiet", *end],
            env=child_environment(OMP_NUM_THREADS="1"), cwd=own_code, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_program_ends_beside_a_thread_that_is_stuck_in_a_library(child_environment, tmp_path):
    """The thread comes back from C++ while the interpreter ends; what is registered still runs."""
    code = (
        "import atexit, threading, sys\n"
        "import foldcam.runtime.system.program as program\n"
        "atexit.register(lambda: print('registered'))\n"
        "gone = threading.Event()\n"
        "def stuck():\n"
        "    gone.set()\n"
        "    threading.Event().wait()\n"
        "threading.Thread(target=stuck, daemon=True).start()\n"
        "gone.wait()\n"
        "def late():\n"
        "    import time; time.sleep(0.2); print('waited for')\n"
        "def load():\n"
        "    def app(prog_name):\n"
        "        threading.Thread(target=late).start()\n"
        "        print('done')\n"
        "        sys.exit(3)\n"
        "    return app\n"
        "app = load()\n"
        "app.__globals__['__name__'] = 'typer'\n"
        "program.run_program('x', lambda: app)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment(), capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert done.stdout.split("\n") == ["done", "waited for", "registered", ""]
    assert done.stderr == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("module", ["typer", "foldcam.runtime.cli.run"])
def test_a_signal_during_start_up_is_one_sentence(child_environment, number, module):
    code = (
        "import os, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    done = subprocess.run(
        started(code, "--help"), env=child_environment(), capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 128 + number
    assert done.stdout == ""
    assert done.stderr.startswith(f"stopped by {number.name}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_harms_no_file(tiny_model, child_environment, tmp_path, closed):
    """Its number would be the first file's, into which libraries would then print."""
    done = subprocess.run(
        ["bash", "-c", f'exec "$@" {closed}', "bash", sys.executable, "-m", "foldcam.runtime",
         "run", str(tiny_model), "--source", "test://?size=64x48&frames=3", "--jsonl", "x.jsonl"],
        env=child_environment(), cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == [0, 1, 2]
    if ">&-" in closed.replace("2>&-", ""):
        # The summary in words was written to nowhere.
        assert done.returncode == 1
        if "2>&-" not in closed:
            *notes, error = done.stderr.splitlines()
            assert error == "error: Standard output cannot be written: Bad file descriptor."
            assert all(each.startswith("note: The feature map has") for each in notes)
    else:
        assert done.returncode == 0, done.stderr


def test_standard_error_that_takes_nothing_does_not_end_a_run(
    tiny_model, child_environment, tmp_path
):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "foldcam.runtime", "run", "--source",
             "test://?size=64x48&frames=3", str(tiny_model), "--jsonl", "-"],
            env=child_environment(), cwd=tmp_path, stdout=subprocess.PIPE, stderr=full, text=True,
            timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 3


def test_a_program_that_is_to_outlive_its_terminal_does(tiny_model, child_environment, tmp_path):
    """`nohup` has SIGHUP ignored, which stays so."""
    child = subprocess.Popen(
        ["nohup", sys.executable, "-m", "foldcam.runtime", "run", str(tiny_model), "--source",
         "test://?size=64x48&rate=20&frames=60", "--jsonl", "x.jsonl", "--json"],
        env=child_environment(), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    _until_begun(child, tmp_path)
    child.send_signal(signal.SIGHUP)
    stdout, stderr = child.communicate(timeout=60)
    assert child.returncode == 0, stderr
    assert json.loads(stdout)["interrupted"] is False


def test_a_signal_that_comes_twice_does_not_break_off_the_end(
    tiny_model, child_environment, tmp_path
):
    """`timeout` signals a process and its group; systemd may send SIGHUP after SIGTERM."""
    child = subprocess.Popen(
        [sys.executable, "-m", "foldcam.runtime", "run", str(tiny_model), "--source",
         "test://?size=64x48&rate=20", "--jsonl", "x.jsonl", "--save", "x.avi", "--json"],
        env=child_environment(), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    _until_begun(child, tmp_path)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
        child.send_signal(number)
        time.sleep(0.01)
    stdout, stderr = child.communicate(timeout=60)
    assert child.returncode == 0, stderr
    assert json.loads(stdout)["interrupted"] is True
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.avi", "x.jsonl"]


def _until_begun(child, folder):
    while child.poll() is None:
        begun = list(folder.glob("*x*.jsonl"))
        if begun and begun[0].stat().st_size:
            return
        time.sleep(0.02)
    pytest.fail(f"the run ended by itself: {child.stderr.read()}")


def test_a_program_that_is_stuck_in_a_library_ends_on_a_signal(child_environment):
    """The main thread never comes back, so that Python calls no handler."""
    # A lock that one has already is waited for, whatever signals come.
    code = (
        "import ctypes\n"
        "import foldcam.runtime.system.program as program\n"
        "program.DEAF_SECONDS = 0.5\n"
        "library = ctypes.CDLL(None)\n"
        "lock = ctypes.create_string_buffer(128)\n"
        "library.pthread_mutex_lock(lock)\n"
        "def app(prog_name):\n"
        "    print('stuck', flush=True)\n"
        "    library.pthread_mutex_lock(lock)\n"
        "program.run_program('x', lambda: app)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], env=child_environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout.readline() == "stuck\n"
    child.send_signal(signal.SIGTERM)
    _, stderr = child.communicate(timeout=30)
    assert child.returncode == 143
    assert stderr == "stopped by SIGTERM.\n"


def test_a_signal_ends_a_wait_that_it_does_not_interrupt(child_environment):
    """One that comes to another thread, as one that comes just before the wait begins."""
    code = (
        "import signal, threading\n"
        "import foldcam.runtime.system.program as program\n"
        "program.DEAF_SECONDS = 60\n"
        "def app(prog_name):\n"
        "    other = threading.Thread(target=threading.Event().wait, daemon=True)\n"
        "    other.start()\n"
        "    hit = lambda: signal.pthread_kill(other.ident, signal.SIGINT)\n"
        "    threading.Timer(0.2, hit).start()\n"
        "    threading.Event().wait()\n"
        "program.run_program('x', lambda: app)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], env=child_environment(), timeout=30, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 130
    assert child.stderr.startswith("stopped by SIGINT")


def test_what_waits_in_files_that_nobody_closed_is_written(child_environment, tmp_path):
    """As by the interpreter's own end, which a program of ours does not have."""
    code = (
        "import foldcam.runtime.system.program as program\n"
        "text = open('text', 'w'); text.write('x' * 10)\n"
        "data = open('data', 'wb'); data.write(b'x' * 10)\n"
        "program.leave(0)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], env=child_environment(), cwd=tmp_path, check=True, timeout=30
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "text": b"x" * 10,
        "data": b"x" * 10,
    }


def test_a_help_whose_reader_goes_away_blames_nobody(child_environment):
    """rich, which prints the help, ends the program by itself when its pipe is closed."""
    done = subprocess.run(
        ["bash", "-c", '"$@" | true', "bash", sys.executable, "-m", "foldcam.runtime",
         "run", "--help"],
        env=child_environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "rich" not in done.stderr
    assert "SystemExit" not in done.stderr
