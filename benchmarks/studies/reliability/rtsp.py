"""`runtime run --source rtsp://...` against a real RTSP server, which is restarted meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from foldcam.benchmarks.evaluation.documents import Progress
from foldcam.benchmarks.studies.demo_model import demo_model
from foldcam.benchmarks.studies.reliability.stream import free_port, listening
from foldcam.runtime.system.errors import FoldcamError

RESTARTS = {False: 1, True: 10}
SIZE = "64"
PYTHON = "/usr/bin/python3"
"""Debian's, which sees Debian's gi."""
USER, PASSWORD = "viewer", "s3cret@/p"
FRAMES = 75
"""That come between two restarts: a source that streams for less is waited for ever longer."""
PATIENCE_SECONDS = 60.0
_PROBE = (
    "import gi; gi.require_version('GstRtspServer', '1.0'); "
    "from gi.repository import Gst, GstRtspServer; Gst.init(None); "
    "missing = [n for n in ('jpegenc', 'rtpjpegpay') if not Gst.ElementFactory.find(n)]; "
    "raise SystemExit(bool(missing))"
)


def why_no_server() -> str:
    """Why no RTSP server can be started here, as a clause; empty if one can."""
    try:
        found = subprocess.run([PYTHON, "-c", _PROBE], capture_output=True, check=False, timeout=60)
    except OSError:
        return f"there is no {PYTHON}"
    if found.returncode:
        return "no RTSP server is installed (gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-good)"
    return ""


class Server:
    """The RTSP server of `rtsp_server.py`, with a user and a password."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """With the credentials, percent-encoded."""
        return f"rtsp://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/test"

    def start(self) -> float:
        """Start it; when it listened, by `time.monotonic()`."""
        script = Path(__file__).with_name("rtsp_server.py")
        self._process = subprocess.Popen(
            [PYTHON, str(script), str(self.port), USER, PASSWORD],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not listening(self.port):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise FoldcamError("The RTSP server does not start.")
            time.sleep(0.01)
        return time.monotonic()

    def kill(self) -> None:
        """End it without a farewell."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Lines:
    """The JSON lines of a running program, counted as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._changed = threading.Condition()
        self.frames: list[int] = []
        self.text = ""
        self._threads = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._listen, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def wait_for(self, count: int, seconds: float) -> float | None:
        """When there were so many; None if there were not in time."""
        with self._changed:
            there = self._changed.wait_for(lambda: len(self.frames) >= count, seconds)
            return time.monotonic() if there else None

    def join(self) -> None:
        """Read to the end."""
        for thread in self._threads:
            thread.join(10.0)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self.text += line if len(self.text) < 100_000 else ""
                self.frames.append(int(json.loads(line)["frame"]))
                self._changed.notify_all()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._changed:
                self.text += line


def check(full: bool, folder: Path, progress: Progress) -> dict[str, Any]:
    """Run the program itself, restart the server, and stop it as a user would."""
    if reason := why_no_server():
        return {"passed": True, "skipped": reason}
    restarts = RESTARTS[full]
    model = demo_model(folder.parent / "model", SIZE)
    server = Server()
    outages: list[float] = []
    try:
        server.start()
        process = subprocess.Popen(
            [sys.executable, "-m", "foldcam.runtime", "run", str(model), "--source", server.uri,
             "--jsonl", "-", "--no-embedding", "--threads", "1"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        lines = Lines(process)
        try:
            came = lines.wait_for(FRAMES, PATIENCE_SECONDS)
            for number in range(restarts if came is not None else 0):
                progress("restarts", number, restarts)
                server.kill()
                time.sleep(1.0)
                before = len(lines.frames)
                back = server.start()
                came = lines.wait_for(before + 1, PATIENCE_SECONDS)
                if came is None or lines.wait_for(before + FRAMES, PATIENCE_SECONDS) is None:
                    break
                outages.append(came - back)
            progress("restarts", len(outages), restarts)
            asked = time.monotonic()
            process.send_signal(signal.SIGTERM)
            status: int | None = process.wait(30.0)
            stopping = time.monotonic() - asked
        finally:
            process.kill()
            lines.join()
    finally:
        server.kill()
    leaked = PASSWORD in lines.text or quote(PASSWORD, safe="") in lines.text
    ordered = all(a < b for a, b in zip(lines.frames, lines.frames[1:], strict=False))
    return {
        "passed": len(outages) == restarts and status == 0 and ordered and not leaked,
        "settings": {"restarts": restarts, "frames": FRAMES},
        "restarts_survived": len(outages),
        "frames": len(lines.frames),
        "in_order": ordered,
        "seconds_until_streaming_again": round(max(outages), 3) if outages else None,
        "exit_status": status,
        "stopping_seconds": round(stopping, 3),
        "credentials_shown": leaked,
    }


def rows(document: dict[str, Any]) -> list[tuple[str, str]]:
    """For the docs."""
    if document.get("skipped"):
        return [("a real RTSP server", document["skipped"])]
    return [
        ("restarts of a real RTSP server, survived",
         f"{document['settings']['restarts']}, {document['restarts_survived']}"),
        ("outage after the server listens again, longest",
         f"{document['seconds_until_streaming_again']:.2f} s"),
        ("frames, all in order",
         f"{document['frames']}, {'yes' if document['in_order'] else 'NO'}"),
        ("from SIGTERM to the program's end", f"{document['stopping_seconds']:.2f} s"),
        ("the password in any output", "YES" if document["credentials_shown"] else "never"),
    ]  # fmt: skip
