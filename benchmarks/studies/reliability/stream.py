"""ffmpeg as a camera on loopback that can be cut, stalled and restored."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from foldcam.runtime.system.errors import FoldcamError

_LISTENING, _ESTABLISHED = "0A", "01"


def free_port() -> int:
    """A TCP port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listening(port: int) -> bool:
    """Whether somebody listens, or has a client already.

    It is asked of the kernel: a connection would be the only client that ffmpeg takes.
    """
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            there = fields[3] in (_LISTENING, _ESTABLISHED)
            if there and int(fields[1].rpartition(":")[2], 16) == port:
                return True
    return False


class Stream:
    """A live MPEG-TS stream that `tcp://127.0.0.1:PORT` gives to one client at a time.

    Args:
        port: of loopback; a free one unless given.
    """

    def __init__(self, picture: str, port: int | None = None) -> None:
        if shutil.which("ffmpeg") is None:
            raise FoldcamError("ffmpeg is not installed: apt install ffmpeg.")
        self.port = free_port() if port is None else port
        self._command = [
            "ffmpeg", "-v", "quiet", "-nostdin", "-re", "-f", "lavfi", "-i", picture,
            "-c:v", "mpeg4", "-q:v", "3", "-g", "5", "-f", "mpegts", "-flush_packets", "1",
            f"tcp://127.0.0.1:{self.port}?listen=1",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Where a client finds it."""
        return f"tcp://127.0.0.1:{self.port}"

    @property
    def dead(self) -> bool:
        """Whether ffmpeg has ended, as it does when its client goes."""
        return self._process is None or self._process.poll() is not None

    def restore(self, seconds: float = 20.0) -> float:
        """Start it, and wait until it listens.

        Returns:
            `time.monotonic()` of when it did.
        """
        self.cut()
        self._process = subprocess.Popen(self._command)
        deadline = time.monotonic() + seconds
        while not listening(self.port):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise FoldcamError(f"ffmpeg does not listen on port {self.port} of loopback.")
            time.sleep(0.005)
        return time.monotonic()

    def stall(self) -> None:
        """It stays connected and sends nothing."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def cut(self) -> None:
        """It is gone from one moment to the next."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cut()
