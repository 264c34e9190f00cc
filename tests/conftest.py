"""What every test may ask for: the photographs, and an NVIDIA GPU."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA_FIXTURES = {"data_root", "cub_root", "houses_root"}
# `make slow` lists in slow.txt the tests that take longer than this, all their cases together,
# and the files whose tests share something that takes longer to make.
SLOW_SECONDS = 0.6
SLOW_SETUP_SECONDS = 3.0
SLOW_HEAD = """\
# Tests and files of tests that take long, with seconds for all their cases together.
# `make check` leaves them out, and parallel runs begin with their files.
# Written by `make slow`; tests that were not run keep their lines.
"""
SLOW = Path(__file__).with_name("slow.txt")

# Each worker computes in its share of the processors: more threads than processors only wait
# for each other. The libraries read these when they are imported, and child processes inherit
# them.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
for _name in (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    "OPENCV_FOR_THREADS_NUM",
):
    os.environ.setdefault(_name, str(max(1, len(os.sched_getaffinity(0)) // _WORKERS)))

# A machine that is busy is no bug.
hypothesis.settings.register_profile("foldcam", deadline=None)
hypothesis.settings.load_profile("foldcam")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--store-slow`, which rewrites the list of slow tests."""
    parser.addoption(
        "--store-slow",
        action="store_true",
        help=f"Write the tests that took more than {SLOW_SECONDS:g} s into tests/slow.txt.",
    )


def _function(nodeid: str) -> str:
    """The test without its parameters, which are too many to list."""
    return nodeid.partition("[")[0]


def _slow_tests() -> dict[str, float]:
    """Seconds of each test or file of the list, all cases of a test together."""
    rows = [line.split() for line in SLOW.read_text(encoding="utf-8").splitlines()]
    return {row[1]: float(row[0]) for row in rows if row and row[0] != "#"}


class _Durations:
    """Adds up how long the tests take, and writes the list."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, float] = defaultdict(float)
        self.slow: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = _function(report.nodeid)
        file = name.partition("::")[0]
        self.seconds[name] += report.duration
        self.seconds[file] += report.duration
        if report.when == "call":
            self.calls[name] += report.duration
            if self.calls[name] > SLOW_SECONDS:
                self.slow.add(name)
        if report.when == "setup" and report.duration > SLOW_SETUP_SECONDS:
            # Without this test the next one of the file would wait as long.
            self.slow.add(file)

    def pytest_sessionfinish(self) -> None:
        # What was not run keeps its line.
        rows = {name: time for name, time in _slow_tests().items() if name not in self.seconds}
        for name in self.slow:
            if name.partition("::")[0] not in self.slow - {name}:
                rows[name] = self.seconds[name]
        lines = [f"{rows[name]:6.1f} {name}\n" for name in sorted(rows)]
        SLOW.write_text(SLOW_HEAD + "".join(lines), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Watch the durations where the list is to be rewritten."""
    if config.getoption("--store-slow") and "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(_Durations())


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Search for no garbage while seven thousand tests are made: it finds none for seconds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@cache
def gpus() -> int:
    """Count the CUDA devices; the driver is asked, so that a Jetson counts as well."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what reads the photographs `data`, and what is listed in slow.txt `slow`.

    The files whose tests take longest come first, so that no worker begins with one while the
    others have nothing left to do.
    """
    slow = _slow_tests()
    seconds: dict[Path, float] = defaultdict(float)
    counted = set()
    for item in items:
        if DATA_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.data)
        name = _function(item.nodeid)
        for listed in {name, name.partition("::")[0]} & slow.keys():
            item.add_marker(pytest.mark.slow)
            if listed not in counted:
                counted.add(listed)
                seconds[item.path] += slow[listed]
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: -seconds[item.path])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `gpu` where there is none."""
    if item.get_closest_marker("gpu") and not gpus():
        pytest.skip("needs an NVIDIA GPU, and the CUDA driver reports none")


@pytest.fixture(autouse=True)
def _logging_of_this_test_alone() -> Iterator[None]:
    """Give the program's logger back as it was: a command that ran in this process sets it up."""
    log = logging.getLogger("foldcam")
    before = (log.level, log.propagate, list(log.handlers), logging.raiseExceptions)
    yield
    log.setLevel(before[0])
    log.propagate, log.handlers[:], logging.raiseExceptions = before[1:]


@pytest.fixture(scope="module", autouse=True)
def _nothing_old_is_searched_for_garbage() -> None:
    """Leave what lives already out of later searches: with torch loaded each takes a second."""
    gc.collect()
    gc.freeze()


# Exports of larger networks are not kept.
_KEPT_BYTES = 32 << 20


def _known_by(program: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> str | None:
    """What an export of a traced graph depends on, or None where it is not to be kept."""
    import torch

    if not isinstance(program, torch.fx.GraphModule) or "f" in options:
        return None
    read = {node.target for node in program.graph.nodes if node.op == "get_attr"}
    tensors = {**program.state_dict(), **{name: attrgetter(name)(program) for name in read}}
    if not all(isinstance(each, torch.Tensor) for each in tensors.values()):
        return None
    if sum(each.nbytes for each in tensors.values()) > _KEPT_BYTES:
        return None
    digest = hashlib.sha256(program.code.encode())
    for node in program.graph.nodes:
        digest.update(f"{node.name} {node.target} {node.meta.get('nn_module_stack')};".encode())
    for name, each in sorted(tensors.items()):
        digest.update(f"{name} {each.dtype} {tuple(each.shape)} {each.stride()};".encode())
        digest.update(each.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    shapes = [(each.dtype, tuple(each.shape)) for each in arguments]
    return f"{digest.hexdigest()} {shapes} {sorted(options.items(), key=str)}"


@pytest.fixture(scope="session", autouse=True)
def torch_exports() -> Iterator[dict[str, bytes]]:
    """What torch.onnx.export made of small traced graphs, which is not made twice.

    Besides, what each export reads again from source is kept, half of its time: the table of
    ONNX operators is always the same, and the operators that torch composes of others are
    looked for again only when there are more of them.
    """
    made: dict[str, bytes] = {}
    if "torch" not in sys.modules:
        yield made
        return
    import onnx
    import torch
    import torch._export.utils
    import torch.onnx

    utils, export = torch._export.utils, torch.onnx.export
    materialize, known = utils._materialize_cpp_cia_ops, []

    def materialize_if_new() -> None:
        registered = torch._C._dispatch_get_registrations_for_dispatch_key(
            "CompositeImplicitAutograd"
        )
        if registered != known:
            materialize()
            known[:] = registered

    @cache
    def keep_the_table() -> None:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        once = staticmethod(cache(ONNXRegistry.from_torchlib))
        patched.setattr(ONNXRegistry, "from_torchlib", once)

    def export_once(program: Any, arguments: Any = (), *rest: Any, **options: Any) -> Any:
        keep_the_table()
        key = None if rest else _known_by(program, arguments, options)
        if key is None:
            return export(program, arguments, *rest, **options)
        if key not in made:
            # As bytes: a network that is trained later would change what shares its weights.
            made[key] = export(program, arguments, **options).model_proto.SerializeToString()
        return SimpleNamespace(model_proto=onnx.ModelProto.FromString(made[key]))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(utils, "_materialize_cpp_cia_ops", materialize_if_new)
        patched.setattr(torch.onnx, "export", export_once)
        yield made


def _folder(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"needs {path.name}: set FOLDCAM_DATA to the folder that contains it")
    return path


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of data sets: FOLDCAM_DATA, or ../shared/data beside the checkout."""
    folder = os.environ.get("FOLDCAM_DATA") or ROOT.parent / "shared" / "data"
    return Path(folder)


@pytest.fixture(scope="session")
def cub_root(data_root: Path) -> Path:
    """A CUB-200-2011 folder: images.txt, bounding_boxes.txt, train_test_split.txt, images/."""
    return _folder(data_root / "CUB_200_2011")


@pytest.fixture(scope="session")
def houses_root(data_root: Path) -> Path:
    """Photographs of houses with prices: houses.csv, images/."""
    return _folder(data_root / "houses")
