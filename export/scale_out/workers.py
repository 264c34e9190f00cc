"""Workers on Ray: a cluster, actors on it that Ray restarts, and their tasks.

Plain actors and not Ray Data: what a shard's work yields is a file, and nothing flows between
the passes but sums and directions.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from export.scale_out.work import Task, Worker
from runtime.errors import FoldcamError

_RETRIES = 3
"""How often Ray gives a task again to a worker that dies of it."""

_ANSWER_SECONDS = 5.0
_START_SECONDS = 900.0
# Read by Ray when it is imported, or when a cluster starts. It reports its use to its makers
# unless it is asked not to.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_enable_metrics_collection": "0"}
# What an own cluster needs, read once, when Ray is imported.
_OWN = {
    # Ray binds to loopback alone where it would not meet a firewall: asked for on Linux, too.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
_imported_by_us = False


@contextmanager
def cluster(address: str | None, workers: int) -> Iterator[None]:
    """A Ray cluster for as long as the block lasts; one that this process has stays as it is.

    Args:
        address: HOST:PORT of one that runs, or `auto` for the one of this machine; None starts one
            of this machine's cores alone: bound to loopback, without dashboard, behind a token
            that nobody else has.
        workers: processes that the own cluster has room for.

    Raises:
        FoldcamError: nothing answers at the address, Ray cannot start, or an own cluster is asked
            for after Ray was imported, which would then be open to the network.
    """
    global _imported_by_us
    own = address is None
    if address is not None and address != "auto":
        _check_answer(address)
    imported = "ray" in sys.modules
    for name, value in ({**_QUIET, **_OWN} if own else _QUIET).items():
        # What the user has set stays.
        os.environ.setdefault(name, value)
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


class Workers:
    """Processes that each have the network, on a cluster that starts when there is work.

    Args:
        worker: as each process starts.
        address: as in `cluster`.
        count: how many.
    """

    def __init__(self, worker: Worker, address: str | None, count: int) -> None:
        self._worker, self._address, self._count = worker, address, count
        self._stack = ExitStack()
        self._actors: list[Any] = []

    def start(self) -> None:
        """Have every process load the network; nothing where they have.

        Raises:
            FoldcamError: as `cluster` and `Worker.ready`; or the cluster has no room.
        """
        if self._actors:
            return
        self._stack.enter_context(cluster(self._address, self._count))
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
            self._stack.callback(ray.kill, each)
        with _one_sentence("while it loaded the network"):
            ray.get([each.ready.remote() for each in self._actors], timeout=_START_SECONDS)

    def run(self, method: str, tasks: Sequence[Task]) -> Iterator[None]:
        """Give each task to a worker that is free; yields after each one that is done.

        Raises:
            FoldcamError: what the worker raised; or it died of a task again and again.
        """
        import ray

        self.start()
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
            found: list[int] = ray.get([each.peak_bytes.remote() for each in self._actors])
        return found

    def close(self) -> None:
        """Let the processes and an own cluster go."""
        self._stack.close()


@contextmanager
def _one_sentence(when: str) -> Iterator[None]:
    """Errors of workers as the user's, where they are."""
    from ray import exceptions

    out_of_memory = FoldcamError(
        f"A worker ran out of memory {when}: lower --batch-size or --workers and run the command "
        "again; what is finished is kept."
    )
    try:
        yield
    except exceptions.GetTimeoutError:
        raise FoldcamError(
            f"The cluster did not start all workers within {_START_SECONDS:.0f} seconds: other "
            "work holds its cores, or MODEL loads slowly there; lower --workers."
        ) from None
    except exceptions.OutOfMemoryError:
        raise out_of_memory from None
    except exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, FoldcamError):
            raise FoldcamError(str(cause)) from None
        if isinstance(cause, MemoryError) or "can't allocate memory" in str(cause):
            raise out_of_memory from None
        raise cause from None
    except exceptions.RayActorError:
        raise FoldcamError(
            f"A worker died {_RETRIES + 1} times {when}: it was killed, most often for want of "
            "memory, or the network crashes there; what is finished is kept, so lower "
            "--batch-size or --workers and run the command again."
        ) from None


def _check_answer(address: str) -> None:
    """Before Ray, which tries for a minute."""
    if "://" in address:
        raise FoldcamError(
            f"--address {address}: give HOST:PORT of the cluster's head (the port that ray start "
            "--head printed, usually 6379), from a machine of the cluster."
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise FoldcamError(f"--address {address!r} is not HOST:PORT, as in 10.0.0.5:6379, or auto.")
    try:
        socket.create_connection((host, int(port)), _ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise FoldcamError(
            f"Nothing answers at --address {address} ({error}): start the cluster with ray start "
            "--head, or leave --address out for this machine alone."
        ) from None
