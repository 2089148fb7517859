"""Starts a training as Ray Train workers; the only file of `train` that knows Ray."""

import concurrent.futures
import dataclasses
import functools
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import ray
import ray.exceptions
import ray.train
import ray.train.torch
import torch

from ranksr import cluster, storage, terminal
from ranksr.data.feed import Batch, shard
from ranksr.data.local_copy import LocalCopy
from ranksr.data.prefetch import prefetch
from ranksr.errors import UserError
from ranksr.train.jobs import RankerJob, SRJob, experiment, seed_of
from ranksr.train.journal import Place
from ranksr.train.loop import NonFiniteLossError, StopRequested, fit
from ranksr.train.stopping import STOP_FILE, stopping, watch
from ranksr.train.world import World

log = logging.getLogger(__name__)


LOOK_SECONDS = 10
NODES_MAY_COME_BACK_SECONDS = 600
"""A training whose nodes were lost waits this long for others, where the cluster does not grow by itself."""


def train(job: SRJob | RankerJob, place: Place, tell_tune: bool = False) -> dict[str, Any]:
    """Run a training to its end on `compute.num_workers` workers; returns its last validation.

    A worker that dies is replaced, and all go on from the last checkpoint, `compute.max_failures` times. SIGTERM and
    SIGINT: the workers finish their step and write a checkpoint, and this process exits with 143 or 130. A STOP_FILE in
    the stage's folder does the same in a trial of Tune, where this then raises StopRequested; with `tell_tune` Tune
    sees every validation.
    """
    compute = job.config.compute
    cluster.require_resources(compute, upscaling=False)  # again: nodes may be gone, and a trial has settings of its own
    with stopping(place) as asked:
        try:
            results = _fit(_trainer(job, place, tell_tune), lambda: cluster.lacking(compute), place.name)
        except ray.train.WorkerGroupError as error:
            if died := _death(error):
                raise UserError(
                    f"{place.name}: a worker died more often than compute.max_failures={compute.max_failures} allows, "
                    f"at last {died}: see that its node has memory enough and stays, then give the same command again, "
                    "which goes on from the last checkpoint"
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
        train_loop_config={
            "job": job,
            "place": dataclasses.replace(place, settings=job.settings, experiment=experiment(job.config)),
            "start": uuid.uuid4().hex[:8],
        },
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


def _death(error: ray.train.WorkerGroupError) -> str:
    """Where a worker's process ended, with its node or for want of memory; empty where our own code failed."""
    for failure in error.worker_failures.values():
        behind = getattr(failure, "health_check_failure", failure)
        if isinstance(behind, ray.exceptions.RayActorError):
            address = re.search(r"^\s*ip: (\S+)", str(behind), re.MULTILINE)
            return f"on {address[1]}" if address else "on a node that is gone"
    return ""


def _tune_callbacks() -> list[Any]:
    from ray.tune.integration.ray_train import TuneReportCallback

    return [TuneReportCallback()]


def _worker(arguments: dict[str, Any]) -> dict[str, Any]:
    job, place = arguments["job"], arguments["place"]
    context, compute = ray.train.get_context(), job.config.compute
    terminal.log_lines()
    logging.getLogger().setLevel(logging.WARNING)  # Train logs every report there, past its own log level
    torch.set_num_threads(compute.threads_per_worker)
    torch.manual_seed(seed_of(job))  # the same initial weights on every worker, and in every run
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # collective calls on Python objects take the current one
    world = World(context.get_world_rank(), context.get_world_size(), str(device), compute)
    world.tune()
    copy = LocalCopy(place.folder, arguments["start"])
    try:
        learner, draw = job.build(world, copy)
        mistake = None
    except UserError as error:
        mistake = str(error)
    # All workers hear of it: one that ended alone would leave the others waiting for it.
    mistakes = [each for each in world.gather([mistake]) if each]
    copy.remove()
    if mistakes:
        return {"mistake": mistakes[0]}

    def batches(steps: range) -> Iterator[Batch]:
        take = functools.partial(
            shard, batch_size=job.training.batch_size, worker_rank=world.worker_rank, num_workers=world.num_workers
        )
        return prefetch(lambda step: world.pin(draw(take(step))), steps, compute.loader_threads)

    try:
        stop = watch(storage.join(place.folder, STOP_FILE)).is_set if world.is_first else lambda: False
        validation = fit(learner, batches, job.training, place, world, ray.train.report, stop)
        return {**validation, **job.conclude(learner, place, world)}
    except UserError as error:
        return {"mistake": str(error)}
    except NonFiniteLossError as error:
        # Starting again from the checkpoint would only meet it again: end as a result, not as a failure.
        return {"error": str(error)}
    except StopRequested as request:
        return {"stopped": request.step}
