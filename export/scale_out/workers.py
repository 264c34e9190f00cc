"""Workers on Ray: a cluster, actors on it, and their results in order.

Plain actors and not Ray Data: what a shard's work yields is a file, and nothing flows between
the passes but sums. A shard is read by the process that embeds it, so that no image travels
through an object store, and a killed worker costs the shard it had in hand. Ray Data would
bring pyarrow, pandas and a planner for streams that do not exist here.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from export.scale_out.worker import NetworkRecipe, ShardWorker, WorkSetting
from runtime.errors import FoldcamError

Task = TypeVar("Task")

_RETRIES = 3
"""How often a task is given to a worker that dies of it."""

_IN_HAND = 2
"""Tasks per worker: the next one waits there while one is done."""

_ANSWER_SECONDS = 5.0
_START_SECONDS = 900.0
# Read by Ray when it is imported, or when a cluster starts.
_QUIET = {"RAY_enable_metrics_collection": "0"}
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
        address: HOST:PORT of one that runs, or `auto` for the one of this machine; None
            starts one of this machine's cores alone: bound to loopback, without dashboard,
            behind a token that nobody else has.
        workers: processes that the own cluster has room for.

    Raises:
        FoldcamError: nothing answers at the address, Ray cannot start, or an own cluster is
            asked for after Ray was imported, which would then be open to the network.
    """
    global _imported_by_us
    own = address is None
    if not own and address != "auto":
        _check_answer(address or "")
    imported = "ray" in sys.modules
    with _environment({**_QUIET, **_OWN} if own else _QUIET):
        import ray

        _imported_by_us = _imported_by_us or (own and not imported)
        if ray.is_initialized():
            yield
            return
        if own and not _imported_by_us:
            raise FoldcamError(
                "Ray was imported before foldcam could bind it to loopback: call ray.init() "
                "yourself, or name a running cluster."
            )
        where = {
            "address": "local",
            "num_cpus": workers,
            "num_gpus": 0,
            "include_dashboard": False,
        }
        try:
            ray.init(
                **(where if own else {"address": address}),
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
            )
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


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables for as long as the block lasts; what the user has set stays."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


class Workers:
    """Processes that each have the network.

    Args:
        recipe: how they load it.
        setting: what is the same for every shard.
        count: how many.

    Raises:
        FoldcamError: as `ShardWorker.ready`; or the cluster has no room for a worker.
    """

    def __init__(self, recipe: NetworkRecipe, setting: WorkSetting, count: int) -> None:
        import ray

        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        room = int(resources.get("CPU", 0))
        if count > room:
            raise FoldcamError(
                f"--workers {count}: the cluster has {room} processor cores, and each worker "
                "takes one."
            )
        actor: Any = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=_RETRIES)(ShardWorker)
        # Both are small: a worker that starts anew gets them again with its task.
        self._actors = [actor.remote(recipe, setting) for _ in range(count)]
        with _one_sentence("while it loaded the network"):
            ray.get([each.ready.remote() for each in self._actors], timeout=_START_SECONDS)

    def run(
        self, method: str, tasks: Sequence[Task], describe: Callable[[Task], str]
    ) -> Iterator[Any]:
        """Give each task to a worker.

        Args:
            method: of `ShardWorker`.
            tasks: its arguments.
            describe: names a task for a message.

        Yields:
            The results in the tasks' order.

        Raises:
            FoldcamError: what the worker raised; or it died of a task again and again.
        """
        import ray

        flying: dict[Any, tuple[int, int]] = {}
        load = [0] * len(self._actors)
        done: dict[int, Any] = {}
        given = told = 0
        while told < len(tasks):
            while given < len(tasks) and min(load) < _IN_HAND:
                number = load.index(min(load))
                reference = getattr(self._actors[number], method).remote(tasks[given])
                flying[reference] = (given, number)
                load[number] += 1
                given += 1
            (ready,), _ = ray.wait(list(flying), num_returns=1)
            place, number = flying.pop(ready)
            load[number] -= 1
            with _one_sentence(f"while it worked on {describe(tasks[place])}"):
                done[place] = ray.get(ready)
            while told in done:
                yield done.pop(told)
                told += 1

    def peak_bytes(self) -> list[int]:
        """The most memory that each process has held so far."""
        import ray

        with _one_sentence("after its work"):
            found: list[int] = ray.get([each.peak_bytes.remote() for each in self._actors])
        return found

    def close(self) -> None:
        """Let the processes go."""
        import ray

        for actor in self._actors:
            ray.kill(actor)


@contextmanager
def _one_sentence(when: str) -> Iterator[None]:
    """Errors of workers as the user's, where they are."""
    from ray import exceptions

    try:
        yield
    except exceptions.GetTimeoutError:
        raise FoldcamError(
            f"The cluster did not start all workers within {_START_SECONDS:.0f} seconds: other "
            "work holds its cores, or MODEL loads slowly there; lower --workers."
        ) from None
    except exceptions.OutOfMemoryError:
        raise _out_of_memory(when) from None
    except exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, FoldcamError):
            raise FoldcamError(str(cause)) from None
        if isinstance(cause, MemoryError) or "can't allocate memory" in str(cause):
            raise _out_of_memory(when) from None
        raise cause from None
    except exceptions.RayActorError:
        raise FoldcamError(
            f"A worker died {_RETRIES + 1} times {when}: it was killed, most often for want of "
            "memory, or the network crashes there; what is finished is kept, so lower "
            "--batch-size or --workers and run the command again."
        ) from None


def _out_of_memory(when: str) -> FoldcamError:
    return FoldcamError(
        f"A worker ran out of memory {when}: lower --batch-size or --workers and run the command "
        "again; what is finished is kept."
    )


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
