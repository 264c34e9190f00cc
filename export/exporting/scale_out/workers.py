"""Workers on Ray: a cluster, actors on it that Ray restarts, and their tasks."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from foldcam.export.banks.arrays import load_arrays
from foldcam.export.banks.steps import StageProgress
from foldcam.export.exporting.scale_out.work import Task, Worker
from foldcam.runtime.system.errors import FoldcamError

_RETRIES = 3
"""How often Ray gives a task again to a worker that dies of it."""

_ANSWER_SECONDS = 5.0
_START_SECONDS = 900.0
# Read by Ray when it is imported, or when a cluster starts.
_QUIET = {"RAY_enable_metrics_collection": "0"}
# For an own cluster. Ray binds to loopback alone where it would not meet a firewall, by the first.
_OWN = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
_imported_by_us = False


@contextmanager
def cluster(address: str | None, workers: int) -> Iterator[None]:
    """A Ray cluster for as long as the block lasts; one that this process has stays as it is.

    Args:
        address: HOST:PORT of one that runs, or `auto`; None starts one of this machine's cores
            alone: bound to loopback, without dashboard, behind a token that nobody else has.
        workers: processes that an own cluster has room for.
    """
    global _imported_by_us
    own, imported = address is None, "ray" in sys.modules
    if address is not None and address != "auto":
        _check_answer(address)
    for name, value in ({**_QUIET, **_OWN} if own else _QUIET).items():
        os.environ.setdefault(name, value)  # what the user has set stays
    import ray

    _imported_by_us = _imported_by_us or (own and not imported)
    if ray.is_initialized():
        yield
        return
    if own and not _imported_by_us:
        raise FoldcamError(
            "Ray was imported before foldcam could bind it to loopback: call ray.init() yourself, "
            "or name a running cluster."
        )
    where: dict[str, Any] = {"address": address}
    if own:
        where = {"address": "local", "num_cpus": workers, "num_gpus": 0, "include_dashboard": False}
    try:
        ray.init(**where, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        first = " ".join(str(error).split())[:200]
        raise FoldcamError(
            f"Ray cannot be reached {'here' if own else f'at {address}'} ({first}): check "
            f"--address, and that the cluster has Ray {ray.__version__} under the same Python."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


class Workers(ExitStack):
    """`count` processes that start as `worker`, on a cluster that starts when there is work.

    With the block they go, and so does an own cluster. `seconds` are those of each stage's work.
    """

    def __init__(
        self, worker: Worker, address: str | None, count: int, progress: StageProgress | None
    ) -> None:
        super().__init__()
        self._worker, self._address, self._count = worker, address, count
        self._progress = progress or (lambda *_: None)
        self._actors: list[Any] = []
        self.seconds: dict[str, float] = {}

    def do(self, stage: str, method: str, tasks: Sequence[Task]) -> int:
        """Do the tasks whose files are not there; returns how many were.

        Raises:
            FoldcamError: as `cluster` and `Worker`, or a worker died of a task again and again.
        """
        left = [task for task in tasks if load_arrays(task.out) is None]
        if left:
            self._start()
            started = time.perf_counter()
            for done, _ in enumerate(self._results(method, left), 1):
                self._progress(f"{stage} (shards)", done, len(left))
            self.seconds[stage] = time.perf_counter() - started
        return len(tasks) - len(left)

    def _start(self) -> None:
        if self._actors:
            return
        self.enter_context(cluster(self._address, self._count))
        import ray

        room = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
        if self._count > room:
            raise FoldcamError(
                f"--workers {self._count}: the cluster has {room} processor cores, and each worker "
                "takes one."
            )
        actor: Any = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=_RETRIES)(Worker)
        self._actors = [actor.remote(**vars(self._worker)) for _ in range(self._count)]
        for each in self._actors:
            self.callback(ray.kill, each)
        with _one_sentence("while it loaded the network"):
            ray.get([each.ready.remote() for each in self._actors], timeout=_START_SECONDS)

    def _results(self, method: str, tasks: Sequence[Task]) -> Iterator[None]:
        """Each task goes to a worker that is free; yields after each one that is done."""
        import ray

        left, free = list(reversed(tasks)), list(self._actors)
        flying: dict[Any, tuple[Task, Any]] = {}
        while left or flying:
            while left and free:
                task, actor = left.pop(), free.pop()
                flying[getattr(actor, method).remote(task)] = task, actor
            (ready,), _ = ray.wait(list(flying), num_returns=1)
            task, actor = flying.pop(ready)
            with _one_sentence(f"while it worked on {task.shard.name}"):
                ray.get(ready)
            free.append(actor)
            yield

    def peak_bytes(self) -> list[int]:
        """The most memory that each process has held so far; empty if none was needed."""
        if not self._actors:
            return []
        import ray

        with _one_sentence("after its work"):
            return list(ray.get([each.peak_bytes.remote() for each in self._actors]))


@contextmanager
def _one_sentence(when: str) -> Iterator[None]:
    """Errors of workers as the user's, where they are."""
    from ray import exceptions

    what = ""
    try:
        yield
    except exceptions.GetTimeoutError:
        what = f"did not start within {_START_SECONDS:.0f} seconds (is the cluster busy?)"
    except exceptions.OutOfMemoryError:
        what = "ran out of memory"
    except exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, FoldcamError):
            raise FoldcamError(str(cause)) from None
        if not isinstance(cause, MemoryError) and "can't allocate memory" not in str(cause):
            raise cause from None
        what = "ran out of memory"
    except exceptions.RayActorError:
        what = f"died {_RETRIES + 1} times"
    if what:
        raise FoldcamError(
            f"A worker {what} {when}: lower --batch-size or --workers and run the command again; "
            "what is finished is kept."
        )


def _check_answer(address: str) -> None:
    """Before Ray, which tries for a minute."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise FoldcamError(
            f"--address {address!r} is not HOST:PORT: give HOST:PORT of the cluster's head (the "
            "port that ray start --head printed, usually 6379), from a machine of the cluster, or "
            "auto."
        )
    try:
        socket.create_connection((host, int(port)), _ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise FoldcamError(
            f"Nothing answers at --address {address} ({error}): start the cluster with ray start "
            "--head, or leave --address out for this machine alone."
        ) from None
