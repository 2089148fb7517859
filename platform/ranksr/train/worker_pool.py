"""Training workers on this machine, kept from one training to the next: only the first waits for their start.

For CPUs of one node. Ray Train starts new processes for each training, which on two cores takes 8 s.
"""

import contextlib
import gc
import logging
import os
import pathlib
import socket
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import ray
import ray.util
import torch
import torch.distributed
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ranksr.config import Compute
from ranksr.train.jobs import RankerJob, SRJob
from ranksr.train.journal import Place
from ranksr.train.work import work
from ranksr.train.world import World

log = logging.getLogger(__name__)

LOOK_FOR_NEWS_SECONDS = 0.1
TELL_AFTER_SECONDS = 20
"""Of waiting for CPUs: those of an earlier stage are free in less."""
NEIGHBOURS_END_SECONDS = 5.0
"""When one worker fails, the others soon meet its absence, or have failed before it."""


class TrainWorker:
    """An actor, that is a process, with two threads: one trains, the other answers `validations`."""

    def __init__(self) -> None:
        self._validations: dict[str, list[dict[str, float]]] = {}

    def train(self, job: SRJob | RankerJob, place: Place, start: str, worker_rank: int, meeting: str) -> dict[str, Any]:
        """`work` as one of `compute.num_workers`, which find each other by the file `meeting`."""
        compute = job.config.compute
        self._validations = {start: []}
        try:
            with _joined(worker_rank, compute.num_workers, meeting):
                world = World(worker_rank, compute.num_workers, compute=compute)
                return work(job, place, start, world, self._validations[start].append)
        finally:
            if compute.compile:
                torch.compiler.reset()  # it compiles a few variants of a function, and then no more

    def validations(self, start: str, known: int) -> list[dict[str, float]]:
        """Validations of this start of a training but for the first `known`; none before it has begun."""
        return self._validations.get(start, [])[known:]


_pools: dict[str, list[Any]] = {}
"""Node to the handles of the workers that this process has started there; another Ray has other nodes. They end with
it."""


def train(
    job: SRJob | RankerJob, place: Place, report: Callable[[dict[str, float]], None] | None = None
) -> dict[str, Any]:
    """Train on `compute.num_workers` kept workers; returns the results of the first, as `work` does.

    When one ends or fails, all are replaced and go on from the last checkpoint, `compute.max_failures` times; after
    that its exception is raised. `report` is called in this thread after every validation.
    """
    compute, start = job.config.compute, uuid.uuid4().hex[:8]
    with _booked(compute, place.name):
        for left in reversed(range(compute.max_failures + 1)):
            try:
                return _train_once(job, place, start, report)
            except BaseException as error:
                dismiss()  # Ctrl+C as well: they would train on
                if not left or not isinstance(error, ray.exceptions.RayError):
                    raise
                reason = str(error).strip().splitlines()[-1]
                log.warning("%s: a worker failed (%s); all go on from the last checkpoint", place.name, reason)
    raise AssertionError("unreachable")


def prepare(count: int) -> list[Any]:
    """Handles of at least `count` workers on this node; those that are missing start, and are not waited for."""
    node = ray.get_runtime_context().get_node_id()
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    for other in _pools.keys() - {node}:  # of a Ray that is over
        del _pools[other]
    pool = _pools.setdefault(node, [])
    while len(pool) < count:
        # They hold no CPU: between trainings the other stages have them all.
        pool.append(ray.remote(num_cpus=0, max_concurrency=2, scheduling_strategy=here)(TrainWorker).remote())
    return pool


def dismiss() -> None:
    """End the workers, whatever they do."""
    for pool in _pools.values():
        while pool:
            ray.kill(pool.pop())


def _train_once(
    job: SRJob | RankerJob, place: Place, start: str, report: Callable[[dict[str, float]], None] | None
) -> dict[str, Any]:
    count = job.config.compute.num_workers
    pool = prepare(count)
    with tempfile.TemporaryDirectory(prefix="ranksr-") as folder:
        meeting = str(pathlib.Path(folder) / "meeting")
        calls = []
        for rank, worker in enumerate(pool[:count]):
            named = worker.train.options(name=f"TrainWorker: {place.name}, worker {rank}")  # in `ray summary tasks`
            calls.append(named.remote(job, place, start, rank, meeting))
        waiting, known = calls, 0
        while waiting:
            done, waiting = ray.wait(waiting, timeout=LOOK_FOR_NEWS_SECONDS)
            if report:
                known += _tell(report, pool[0], start, known)
            _raise_failure(done, waiting)
        return ray.get(calls[0])


def _tell(report: Callable[[dict[str, float]], None], worker: Any, start: str, known: int) -> int:
    """Call `report` with the worker's validations but for the first `known`; their number."""
    try:
        validations = ray.get(worker.validations.remote(start, known))
    except ray.exceptions.RayActorError:  # its failure is met where it was called
        return 0
    for values in validations:
        report(values)
    return len(validations)


def _raise_failure(done: list[Any], others: list[Any]) -> None:
    """Raise the exception of a worker that has failed; of several, not that of one whose neighbour went away."""
    if errors := _errors(done):
        if others:
            errors += _errors(ray.wait(others, num_returns=len(others), timeout=NEIGHBOURS_END_SECONDS)[0])
        raise min(errors, key=lambda error: "/gloo/" in str(error))


def _errors(done: list[Any]) -> list[ray.exceptions.RayError]:
    errors = []
    for each in done:
        try:
            ray.get(each)
        except ray.exceptions.RayError as error:
            errors.append(error)
    return errors


@contextlib.contextmanager
def _booked(compute: Compute, name: str) -> Iterator[None]:
    """Wait for the CPUs of the workers, and have them as long as the training lasts."""
    group = ray.util.placement_group([{"CPU": compute.cpus_per_worker}] * compute.num_workers)
    try:
        begun, told = time.monotonic(), False
        while not group.wait(timeout_seconds=1):
            if not told and time.monotonic() - begun > TELL_AFTER_SECONDS:
                log.info(
                    "%s: waits for %g CPUs, which other work has", name, compute.num_workers * compute.cpus_per_worker
                )
                told = True
        yield
    finally:
        ray.util.remove_placement_group(group)


@contextlib.contextmanager
def _joined(worker_rank: int, num_workers: int, meeting: str) -> Iterator[None]:
    """Collective calls among the workers meanwhile, through the loopback: other networks come and go.

    Networks are freed before the group is. DDP's reducer would be its last owner otherwise, and free it without giving
    up Python's lock, for which one of the group's threads may wait: the worker would never answer again.
    """
    if num_workers > 1:
        loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        store = torch.distributed.FileStore(meeting, num_workers)
        torch.distributed.init_process_group("gloo", store=store, rank=worker_rank, world_size=num_workers)
    try:
        yield
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # they hold the networks
        raise
    finally:
        gc.collect()  # networks and optimisers refer to each other
        if num_workers > 1:
            torch.distributed.destroy_process_group()
