"""Starts a training: on kept workers of this machine, or as Ray Train workers on GPUs and on several nodes."""

import concurrent.futures
import dataclasses
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import ray
import ray.exceptions
import ray.train
import ray.train.torch
import ray.tune
import torch

from ranksr import cluster
from ranksr.config import Compute
from ranksr.errors import UserError
from ranksr.train import worker_pool
from ranksr.train.jobs import RankerJob, SRJob, experiment
from ranksr.train.journal import Place
from ranksr.train.loop import StopRequested
from ranksr.train.stopping import stopping
from ranksr.train.work import work
from ranksr.train.world import World

log = logging.getLogger(__name__)


LOOK_SECONDS = 10
NODES_MAY_COME_BACK_SECONDS = 600
"""A training whose nodes were lost waits this long for others, where the cluster does not grow by itself."""


def prepare(compute: Compute) -> None:
    """Start the workers of later trainings, where this machine keeps them, while other stages are built."""
    if _on_kept_workers(compute):
        worker_pool.prepare(compute.num_workers)


def _on_kept_workers(compute: Compute) -> bool:
    return cluster.is_this_machine() and not compute.gpus_per_worker


def train(job: SRJob | RankerJob, place: Place, tell_tune: bool = False) -> dict[str, Any]:
    """Run a training to its end on `compute.num_workers` workers; returns its last validation.

    A worker that dies is replaced, and all go on from the last checkpoint, `compute.max_failures` times. SIGTERM and
    SIGINT: the workers finish their step and write a checkpoint, and this process exits with 143 or 130. A STOP_FILE in
    the stage's folder does the same in a trial of Tune, where this then raises StopRequested; with `tell_tune` Tune
    sees every validation.
    """
    compute = job.config.compute
    cluster.require_resources(compute, upscaling=False)  # again: nodes may be gone, and a trial has settings of its own
    place = dataclasses.replace(place, settings=job.settings, experiment=experiment(job.config))
    with stopping(place) as asked:
        try:
            if _on_kept_workers(compute):
                results = worker_pool.train(job, place, ray.tune.report if tell_tune else None)
            else:
                results = _fit(_trainer(job, place, tell_tune), lambda: cluster.lacking(compute), place.name)
        except (ray.train.WorkerGroupError, ray.train.ControllerError, ray.exceptions.RayActorError) as error:
            if died := _death(error):
                often = f"more often than compute.max_failures={compute.max_failures} allows, at last"
                # What kills a worker while Train starts it counts as the controller's failure, and is the end at once.
                how = "at its start," if isinstance(error, ray.train.ControllerError) else often
                raise UserError(
                    f"{place.name}: a worker died {how} {died}: see that its node has memory enough and stays, then "
                    "give the same command again, which goes on from the last checkpoint"
                ) from error
            raise
    if asked.by:
        when = f"after step {results['stopped']}, with a checkpoint" if "stopped" in results else "after its last step"
        log.warning("%s: stopped by %s %s; the same command continues", place.name, asked.by.name, when)
        raise SystemExit(asked.exit_code)
    if "mistake" in results:
        raise UserError(f"{place.name}: {results['mistake']}")
    if "stopped" in results:
        raise StopRequested(results["stopped"])
    return {**results, "num_workers": compute.num_workers}


def _trainer(job: SRJob | RankerJob, place: Place, tell_tune: bool) -> cluster.Trainer:
    compute = job.config.compute
    return cluster.Trainer(
        _worker,
        train_loop_config={"job": job, "place": place, "start": uuid.uuid4().hex[:8]},
        scaling_config=ray.train.ScalingConfig(
            num_workers=compute.num_workers,
            use_gpu=compute.gpus_per_worker > 0,
            resources_per_worker={
                "CPU": compute.cpus_per_worker,
                **({"GPU": compute.gpus_per_worker} if compute.gpus_per_worker else {}),
            },
        ),
        torch_config=ray.train.torch.TorchConfig(backend=None if compute.gpus_per_worker else "gloo"),
        run_config=ray.train.RunConfig(
            name="ray_train",
            storage_path=place.folder,
            failure_config=ray.train.FailureConfig(max_failures=compute.max_failures),
            callbacks=_tune_callbacks() if tell_tune else [],
            # Train's own INFO and WARNING lines repeat every second what ours say once.
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )


def _fit(trainer: cluster.Trainer, lacking: Callable[[], str], name: str) -> dict[str, Any]:
    """Result of the first worker. In a thread: in the main one, Train would answer to SIGINT itself, and abort.

    Raises UserError where nodes that were lost are missed for too long.
    """
    found: concurrent.futures.Future[dict[str, Any]] = concurrent.futures.Future()

    def run() -> None:
        try:
            found.set_result(trainer.fit().return_value)
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=run, daemon=True, name="fit").start()
    missed_since = None
    while not concurrent.futures.wait([found], LOOK_SECONDS).done:
        lack = lacking()
        if not lack:
            missed_since = None
        elif missed_since is None:
            missed_since = time.monotonic()
            log.warning("%s: %s: waits %g minutes for nodes", name, lack, NODES_MAY_COME_BACK_SECONDS / 60)
        elif time.monotonic() - missed_since > NODES_MAY_COME_BACK_SECONDS:
            raise UserError(
                f"{name}: {lack}, for {NODES_MAY_COME_BACK_SECONDS / 60:g} minutes: start nodes, or lower "
                "compute.num_workers, and give the same command again, which goes on from the last checkpoint"
            )
    return found.result()


def _death(error: ray.train.WorkerGroupError | ray.train.ControllerError | ray.exceptions.RayActorError) -> str:
    """Where a worker's process ended, with its node or for want of memory; empty where our own code failed."""
    failures: Iterable[BaseException] = [error]
    if isinstance(error, ray.train.WorkerGroupError):
        failures = error.worker_failures.values()
    elif isinstance(error, ray.train.ControllerError):
        failures = [error.controller_failure]
    for failure in failures:
        behind = getattr(failure, "health_check_failure", failure)
        if isinstance(behind, ray.exceptions.RayActorError | ray.exceptions.OutOfMemoryError):
            address = re.search(r"^\s*ip: (\S+)|\(IP: ([^\s,]+)", str(behind), re.MULTILINE)
            return f"on {address[1] or address[2]}" if address else "on a node that is gone"
    return ""


def _tune_callbacks() -> list[Any]:
    from ray.tune.integration.ray_train import TuneReportCallback

    return [TuneReportCallback()]


def _worker(arguments: dict[str, Any]) -> dict[str, Any]:
    job, context, device = arguments["job"], ray.train.get_context(), ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # collective calls on Python objects take the current one
    world = World(context.get_world_rank(), context.get_world_size(), str(device), job.config.compute)
    return work(**arguments, world=world, report=ray.train.report)
