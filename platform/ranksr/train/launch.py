"""Starts a training as Ray Train workers; the only file of `train` that knows Ray."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import logging
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import ray
import ray.train
import ray.train.torch
import torch
from ray.train.torch import TorchTrainer

from ranksr import checkpoints, cluster, progress, storage
from ranksr.config import Config, Training, UserError
from ranksr.data.feed import Batch, CropFeed, PairFeed, SubImages, prefetch, shard
from ranksr.data.labels import derive_labels
from ranksr.data.local_copy import LocalCopy
from ranksr.data.score import Judge
from ranksr.train import hparams, ranker_report
from ranksr.train.journal import Place
from ranksr.train.loop import Learner, NonFiniteLossError, StopRequested, fit, validated_by
from ranksr.train.ranker import RankerLearner
from ranksr.train.sr import SRLearner
from ranksr.train.world import World

log = logging.getLogger(__name__)

STOP_FILE = "stop_requested"
"""In a stage's folder: what its workers see of a SIGTERM to the driver, or of early stopping."""
LOOK_FOR_STOP_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class SRJob:
    """Trains the generator `method` of a config. Paths are absolute or s3."""

    config: Config
    method: str
    patches: str
    start: str | None
    ranker: str | None
    judge: Judge

    @property
    def training(self) -> Training:
        return self.config.methods[self.method].train

    @property
    def settings(self) -> dict[str, Any]:
        """Dotted keys without the method's own name, so that methods can be compared."""
        chosen = self.config.select(f"methods.{self.method}", "seed")
        return {key.removeprefix(f"methods.{self.method}."): value for key, value in chosen.items()}

    def build(self, world: World, copy: LocalCopy) -> tuple[Learner, Callable[[range], Batch]]:
        """The learner and the feed of one worker."""
        config, method = self.config, self.config.methods[self.method]
        self.judge.load()  # what is wrong with a model is said now, on every worker
        held_out = SubImages(copy.read(self.patches, "val"))
        chosen = evenly(len(held_out), config.validation.num_patches)[world.worker_rank :: world.num_workers]
        learner = SRLearner(
            method,
            config.perceptual,
            config.discriminator,
            config.rank_content,
            self.judge,
            world,
            start=checkpoints.start_weights(self.start, method.generator) if self.start else None,
            ranker=checkpoints.load_ranker(self.ranker) if self.ranker else None,
            validation=[held_out.pair(index) for index in chosen],
        )
        crops = SubImages(copy.read(self.patches, "train"), method.hr_patch_px)
        self._tell_left_out(crops, world)
        return learner, CropFeed(crops, method.hr_patch_px, seed_of(self)).batch

    def _tell_left_out(self, crops: SubImages, world: World) -> None:
        """Log the photographs that are too small to crop from. Raises UserError where no other is left."""
        names, key = crops.left_out, f"methods.{self.method}.hr_patch_px"
        size = self.config.methods[self.method].hr_patch_px
        some = f"{', '.join(names[:3])}{', ...' * (len(names) > 3)}"
        if not len(crops):
            raise UserError(
                f"none of the {crops.num_photographs} training photographs has {key}={size} px on both sides ({some}): "
                "lower it, or give larger photographs"
            )
        if names and world.is_first:
            log.warning(
                "%s: %d of %d training photographs are left out, smaller than %s=%d px: %s",
                *(self.method, len(names), crops.num_photographs, key, size, some),
            )

    def conclude(self, learner: Learner, place: Place, world: World) -> dict[str, Any]:
        """What else a finished training leaves: nothing."""
        return {}


@dataclasses.dataclass(frozen=True)
class RankerJob:
    """Trains the Ranker of a config on a rank dataset."""

    config: Config
    rank_dataset: str

    @property
    def training(self) -> Training:
        return self.config.ranker.train

    @property
    def settings(self) -> dict[str, Any]:
        return {key.removeprefix("ranker."): value for key, value in self.config.select("ranker", "seed").items()}

    def build(self, world: World, copy: LocalCopy) -> tuple[Learner, Callable[[range], Batch]]:
        """The learner and the feed of one worker."""
        ranker = self.config.ranker
        held_out = derive_labels(copy.read(self.rank_dataset, "val"), ranker)
        chosen = evenly(len(held_out.values), self.config.validation.num_patches)[
            world.worker_rank :: world.num_workers
        ]
        feed = PairFeed(derive_labels(copy.read(self.rank_dataset, "train"), ranker), seed_of(self))
        if not len(feed):
            raise UserError(
                f"{self.rank_dataset} has no training location whose methods differ on {ranker.metric} by more than "
                f"ranker.min_gap={ranker.min_gap}: lower it, or rank_dataset.min_sigma, or use more photographs"
            )
        return RankerLearner(ranker, held_out, chosen, world), feed.batch

    def conclude(self, learner: Learner, place: Place, world: World) -> dict[str, Any]:
        """Write ranker_scores.parquet, the exported Ranker on every validation location; its summary."""
        assert isinstance(learner, RankerLearner)
        world.barrier()  # the first worker has written weights.pt
        ranker = checkpoints.load_ranker(storage.join(place.folder, "weights.pt")).to(world.device)
        own = range(world.worker_rank, len(learner.labels.values), world.num_workers)
        rows = world.gather(ranker_report.score_locations(ranker, learner.labels, own, world.device))
        if not world.is_first:
            return {}
        rows.sort(key=lambda row: (row["image_id"], row["y"], row["x"]))
        table = pa.Table.from_pylist(rows, schema=ranker_report.SCHEMA)
        storage.write_table(storage.join(place.folder, "ranker_scores.parquet"), table)
        return {"every_validation_location": ranker_report.summarise(rows, self.config.ranker.min_gap)}


def seed_of(job: SRJob | RankerJob) -> int:
    """Of the initial weights and of the samples."""
    return job.config.seed if job.training.seed is None else job.training.seed


def _experiment(config: Config) -> hparams.Experiment:
    """Keys and metrics of all trainings of a config, known before the first of them starts."""
    judge = Judge(config.scoring.profile, "", config.scoring.ma_model)
    jobs = [SRJob(config, name, "", None, None, judge) for name in config.methods]
    metrics = (*validated_by(False, config.scoring.ma_model is not None), *validated_by(True, False))
    settings = [job.settings for job in (*jobs, RankerJob(config, ""))]
    return hparams.experiment(settings, (f"val/{name}" for name in metrics))


def evenly(size: int, count: int) -> list[int]:
    """At most `count` indices below `size`, evenly spread."""
    return [round(index * size / count) for index in range(count)] if size > count else list(range(size))


def train(job: SRJob | RankerJob, place: Place, tell_tune: bool = False) -> dict[str, Any]:
    """Run a training to its end on `compute.num_workers` workers; returns its last validation.

    A worker that dies is replaced, and all go on from the last checkpoint, `compute.max_failures` times. SIGTERM and
    SIGINT: the workers finish their step and write a checkpoint, and this process exits with 143 or 130. A STOP_FILE in
    the stage's folder does the same in a trial of Tune, where this then raises StopRequested; with `tell_tune` Tune
    sees every validation.
    """
    compute = job.config.compute
    cluster.require_resources(compute, upscaling=False)  # again: nodes may be gone, and a trial has settings of its own
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "job": job,
            "place": dataclasses.replace(place, settings=job.settings, experiment=_experiment(job.config)),
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
    with _stopping(place) as asked:
        results = _fit(trainer)
    if asked.by:
        when = f"after step {results['stopped']}, with a checkpoint" if "stopped" in results else "after its last step"
        log.warning("%s: stopped by %s %s; the same command continues", place.name, asked.by.name, when)
        raise SystemExit(asked.exit_code)
    if "mistake" in results:
        raise UserError(f"{place.name}: {results['mistake']}")
    if "stopped" in results:
        raise StopRequested(results["stopped"])
    return {**results, "num_workers": compute.num_workers}


def _fit(trainer: TorchTrainer) -> dict[str, Any]:
    """What the first worker returns. In a thread: in the main one, Train would answer to SIGINT itself, and abort."""
    found: concurrent.futures.Future[dict[str, Any]] = concurrent.futures.Future()

    def run() -> None:
        try:
            with cluster.told_to_train():
                found.set_result(trainer.fit().return_value)
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=run, daemon=True, name="fit").start()
    return found.result()


@contextlib.contextmanager
def _stopping(place: Place) -> Iterator["Asked"]:
    """Turns SIGTERM and SIGINT into a file that the first worker looks for; gives which of them came.

    Of a Tune trial, whose own process gets no signals, the driver writes the file; here it is removed at the end.
    """
    flag = storage.join(place.folder, STOP_FILE)

    def ask(name: str) -> None:
        log.warning("%s: %s; finishing the step and writing a checkpoint%s", place.name, name, HINT)
        storage.write_bytes(flag, b"")

    storage.delete(flag)  # of a driver that was killed while it waited
    try:
        with on_stop_signal(ask) as asked:
            yield asked
    finally:
        storage.delete(flag)


HINT = " (Ctrl+C again ends at once)"


@dataclasses.dataclass
class Asked:
    """Which signal has asked for a stop."""

    by: signal.Signals | None = None

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that the signal ended: 143 or 130."""
        assert self.by is not None
        return 128 + self.by


@contextlib.contextmanager
def on_stop_signal(ask: Callable[[str], None]) -> Iterator[Asked]:
    """Calls `ask` with the name of the first SIGTERM or SIGINT (Ctrl+C), which then ends nothing by itself.

    A SIGINT after that raises KeyboardInterrupt. Only the main thread gets signals. `ray job stop` follows its SIGTERM
    with SIGKILL after RAY_JOB_STOP_WAIT_TIME_S (3 s): nothing is lost but the steps since the last checkpoint.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, _: Any) -> None:
        if asked.by is None:
            asked.by = signal.Signals(number)
            ask(asked.by.name)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tune_callbacks() -> list[Any]:
    from ray.tune.integration.ray_train import TuneReportCallback

    return [TuneReportCallback()]


def _worker(arguments: dict[str, Any]) -> dict[str, Any]:
    job, place = arguments["job"], arguments["place"]
    context, compute = ray.train.get_context(), job.config.compute
    progress.log_lines()
    logging.getLogger().setLevel(logging.WARNING)  # Train logs every report there, past its own log level
    torch.set_num_threads(compute.threads_per_worker)
    torch.manual_seed(seed_of(job))  # the same initial weights on every worker, and in every run
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # collective calls on Python objects take the current one
    world = World(context.get_world_rank(), context.get_world_size(), str(device), compute)
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
        stop = _watch(storage.join(place.folder, STOP_FILE)).is_set if world.is_first else lambda: False
        validation = fit(learner, batches, job.training, place, world, ray.train.report, stop)
        return {**validation, **job.conclude(learner, place, world)}
    except UserError as error:
        return {"mistake": str(error)}
    except NonFiniteLossError as error:
        # Starting again from the checkpoint would only meet it again: end as a result, not as a failure.
        return {"error": str(error)}
    except StopRequested as request:
        return {"stopped": request.step}


def _watch(flag: str) -> threading.Event:
    """Becomes set once the file `flag` exists. A thread looks, so that the training never waits for s3."""
    seen = threading.Event()

    def look() -> None:
        while not seen.wait(LOOK_FOR_STOP_SECONDS):
            with contextlib.suppress(OSError, storage.StorageError):  # looked for again
                if storage.exists(flag):
                    seen.set()

    threading.Thread(target=look, daemon=True, name="stop").start()
    return seen
