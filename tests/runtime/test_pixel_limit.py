"""No picture takes more memory than its header was allowed to promise."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from foldcam.runtime.images.files import read_image
from foldcam.runtime.images.pixel_limit import VARIABLE, max_pixels
from foldcam.runtime.system.errors import FoldcamError

HERE = Path(__file__).parent
spec = spec_from_file_location("headers", HERE / "headers.py")
assert spec is not None
assert spec.loader is not None
headers = module_from_spec(spec)
spec.loader.exec_module(headers)


def huge_png(side: int) -> bytes:
    """A black grey PNG of so many pixels each way, whole and right, in a few kilobytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    squeezed = zlib.compressobj(9)
    row, parts = bytes(side + 1), []
    for _ in range(side):
        parts.append(squeezed.compress(row))
    parts.append(squeezed.flush())
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", b"".join(parts))
        + chunk(b"IEND", b"")
    )


class Reader:
    """A process of 1 GiB that reads pictures until it is closed; it must outlive them all."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "reading_under_a_limit.py")],
                env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=stream,
            )  # fmt: skip

    def ask(self, how: str, path: Path) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{how} {path}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"status {self.process.wait(10)}: {self.log.read_text()[-2000:]}"
        return answer.strip()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(30) == 0
        assert "Traceback" not in self.log.read_text()


@pytest.fixture(scope="module", params=["100", "100000"], ids=["limited", "limit raised"])
def reader(request, tmp_path_factory) -> Iterator[Reader]:
    """With the limit raised, the allocations themselves fail, which must be as harmless."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", VARIABLE: request.param}
    made = Reader(environment, tmp_path_factory.mktemp("reader") / "log")
    yield made
    made.close()


sides = st.one_of(
    st.integers(0, 200), st.integers(0, 70_000), st.integers(0, 2**31 - 1),
    st.sampled_from([96, 97, 10_000, 20_000, 30_000, 65_500, 65_535, 2**20, 2**31 - 1]),
)  # fmt: skip


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example("png", 30_000, 30_000, [], "picture")
@example("jpeg", 45_000, 45_000, [], "picture")
@example("gif", 65_535, 65_535, [], "film")
# Damage of which pi_heif says EOFError.
@example("heic", 5, 96, [(381, 62), (265, 96)], "picture")
@given(
    name=st.sampled_from(headers.NAMES),
    width=sides,
    height=sides,
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    how=st.sampled_from(["picture", "film"]),
)
def test_no_header_kills_the_process(reader, tmp_path, name, width, height, changes, how):
    data = bytearray(headers.promising(name, width, height))
    for place, value in changes:
        data[place % len(data)] = value
    path = tmp_path / "any"
    path.write_bytes(data)
    answer = reader.ask(how, path)
    assert answer.startswith(("read ", "refused "))
    if answer.startswith("refused ") and answer != "refused nothing in it":
        assert str(path) in answer


@pytest.mark.parametrize("name", headers.NAMES)
def test_a_promise_above_the_limit_is_refused_by_the_header(tmp_path, name):
    path = tmp_path / "huge"
    width = height = 16_000
    path.write_bytes(headers.promising(name, width, height))
    with pytest.raises(FoldcamError, match=r"16000 x 16000 pixels.*100 megapixels|is truncated"):
        read_image(path)


def test_a_small_file_of_many_pixels_is_refused_and_the_advice_reads_it(tmp_path, monkeypatch):
    path = tmp_path / "black.png"
    path.write_bytes(huge_png(1100))
    monkeypatch.setenv(VARIABLE, "1.2")
    with pytest.raises(FoldcamError, match=r"black.png has 1100 x 1100 pixels.*MEGAPIXELS=2 "):
        read_image(path)
    monkeypatch.setenv(VARIABLE, "2")
    assert read_image(path).shape == (1100, 1100, 3)


@pytest.mark.parametrize("text", ["x", "0", "-1", "nan", "inf", "1e9"])
def test_a_limit_that_is_none_is_named(monkeypatch, text):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(FoldcamError, match=VARIABLE):
        max_pixels()


def test_opencv_has_the_same_limit(child_environment, tmp_path):
    """For a file whose header OpenCV understands in another way than we do."""
    path = tmp_path / "black.png"
    path.write_bytes(huge_png(1100))
    program = (
        "import sys, foldcam.runtime.images.files, cv2\n"
        "try:\n    print(cv2.imread(sys.argv[1]) is None)\nexcept cv2.error:\n    print(True)"
    )
    for limit, refused in (("1", "True"), ("2", "False")):
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)], capture_output=True, text=True,
            env={**child_environment(), VARIABLE: limit},
        )  # fmt: skip
        assert done.stdout.strip() == refused, done.stderr


def test_every_reader_refuses_in_one_sentence(runtime_process, tiny_model, photo, tmp_path):
    path: Path = photo("a.png")
    path.write_bytes(huge_png(1100))
    done = runtime_process(
        "run", str(tiny_model), "--file", str(path), "--quiet", env={VARIABLE: "1"}
    )
    assert done.returncode == 1
    assert f"{path}: has 1100 x 1100 pixels, more than the 1 megapixels" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
