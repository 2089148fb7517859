"""The work of one worker of a training, from its settings to its weights, without Ray."""

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ranksr import storage, terminal
from ranksr.data.feed import Batch, shard
from ranksr.data.local_copy import LocalCopy
from ranksr.data.prefetch import prefetch
from ranksr.errors import UserError
from ranksr.train.jobs import RankerJob, SRJob, seed_of
from ranksr.train.journal import Place
from ranksr.train.loop import NonFiniteLossError, StopRequested, fit
from ranksr.train.stopping import STOP_FILE, watch
from ranksr.train.world import World


def work(
    job: SRJob | RankerJob, place: Place, start: str, world: World, report: Callable[[dict[str, float]], None]
) -> dict[str, Any]:
    """Train from the last checkpoint to the end, side by side with the other workers of `world`.

    `start` is new at every start of the training; `report` is called after every validation, on every worker. Returns
    the last validation on the first worker; how else it ended is {"mistake": text for the user}, {"error": text} of a
    loss that is not finite, or {"stopped": step}.
    """
    compute = job.config.compute
    terminal.log_lines()
    logging.getLogger().setLevel(logging.WARNING)  # Train logs every report there, past its own log level
    torch.set_num_threads(compute.threads_per_worker)
    torch.manual_seed(seed_of(job))  # the same initial weights on every worker, and in every run
    world.tune()
    with contextlib.closing(LocalCopy(place.folder, start, compute.local_pixels)) as copy:
        return _work(job, place, copy, world, report)


def _work(
    job: SRJob | RankerJob, place: Place, copy: LocalCopy, world: World, report: Callable[[dict[str, float]], None]
) -> dict[str, Any]:
    compute = job.config.compute
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

    never = contextlib.nullcontext(threading.Event())
    try:
        with watch(storage.join(place.folder, STOP_FILE)) if world.is_first else never as stop:
            validation = fit(learner, batches, job.training, place, world, report, stop.is_set)
        return {**validation, **job.conclude(learner, place, world)}
    except UserError as error:
        return {"mistake": str(error)}
    except NonFiniteLossError as error:
        # Starting again from the checkpoint would only meet it again: end as a result, not as a failure.
        return {"error": str(error)}
    except StopRequested as request:
        return {"stopped": request.step}
