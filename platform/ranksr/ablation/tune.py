"""Runs the work of a wave by Ray Tune: trials side by side as the cluster allows, each in a process of its own."""

import dataclasses
import functools
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ray
import ray.data
import ray.tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.progress_reporter import TrialProgressCallback

from ranksr import cluster, pipeline, storage, terminal
from ranksr.ablation.early_stopping import Stopping
from ranksr.ablation.trials import Trial
from ranksr.config import Config
from ranksr.errors import StorageError, UserError
from ranksr.runs import Run
from ranksr.train.loop import StopRequested
from ranksr.train.stopping import HINT, STOP_FILE, Asked, on_stop_signal

log = logging.getLogger(__name__)

LOOK_FOR_ORPHANS_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of a trial's own process."""

    trial: Trial
    stages: list[str]
    run: Run
    digests: dict[str, str]
    watched: str | None
    tuned: str | None = None

    def do(self) -> dict[str, Any]:
        """Build the stages. What goes wrong comes back as `error`: only a process that dies is tried again by Tune."""
        try:
            for name in self.stages:
                pipeline.build_stages(self._context, [], last=functools.partial(pipeline.stage_of, name=name))
        except StopRequested as request:
            return {"stopped_at": request.step}
        except (UserError, StorageError) as error:
            return {"error": str(error)}
        except Exception as error:
            log.exception("ablation: %s failed", self.trial.key)
            return {"error": str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)}
        return {"error": None}

    def stop_files(self) -> list[str]:
        """Stop file of the training that has begun, if one has. It ends after its step, with a checkpoint."""
        trainings = {*self.trial.config.rankers, *self.trial.config.methods}
        stages = [stage for stage in pipeline.plan(self._context) if stage.name.partition("@")[0] in trainings]
        return [stage.path(STOP_FILE) for stage in stages if stage.state == "unfinished"][:1]

    @property
    def _context(self) -> pipeline.Context:
        return pipeline.Context(
            self.trial.config,
            self.run,
            start_ray=lambda: None,
            tuned=self.tuned,
            watched=self.watched,
            label=f"{self.trial.key} ",
            digests=self.digests,
        )


class _Watch(TrialProgressCallback):
    """Says how far the trials are, in place of Tune's own lines, frees what a dead one held, and ends when asked to."""

    def __init__(self, work: dict[str, Work], tell: Callable[[str], None]) -> None:
        super().__init__()
        self._over, self._work, self._tell, self._looked = 0, work, tell, 0.0
        self.asked = Asked()
        """The signal that asked for a stop; `fit` ends by SystemExit once trainings have written a checkpoint."""
        self._stop_files: list[str] | None = None

    def log_result(self, *_: Any, **__: Any) -> None:
        """Nothing: a training has its own lines."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._over += 1
        log.info("ablation: %s is through, %d of %d", trial.config["trial"], self._over, len(self._work))
        self._tell(trial.config["trial"])

    def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
        if self.asked.by:
            self._stop([self._work[trial.config["trial"]] for trial in trials if trial.status == TuneTrial.RUNNING])
        if time.monotonic() - self._looked > LOOK_FOR_ORPHANS_SECONDS:
            for _orphan in range(cluster.remove_orphans()):
                log.warning("ablation: a trial's process died; the CPUs and GPUs of its workers are free again")
            self._looked = time.monotonic()

    def _stop(self, running: list[Work]) -> None:
        """Ask the trainings to stop, and leave once they have; a data job goes on from its parts."""
        assert self.asked.by is not None
        if self._stop_files is None:
            self._stop_files = [path for work in running for path in work.stop_files()]
            for path in self._stop_files:
                storage.write_bytes(path, b"")
        if not any(map(storage.exists, self._stop_files)):
            log.warning("ablation: stopped by %s; the same command continues", self.asked.by.name)
            raise SystemExit(self.asked.exit_code)


def run_side_by_side(
    work: Sequence[Work], context: pipeline.Context, scheduler: Stopping | None, tell: Callable[[str], None]
) -> dict[str, str]:
    """Do the work side by side, `tell` of each trial that is through; returns the errors by trial."""
    by_key = {each.trial.key: each for each in work}
    watch = _Watch(by_key, tell)
    _quieten_tune()

    def run_trial(parameters: dict[str, Any]) -> dict[str, Any]:
        # Tune gives the trial its own process; its training workers and data tasks are scheduled beside it.
        terminal.log_lines(f"{parameters['trial']}: %(message)s")
        terminal.quieten_ray_data()
        # The bars of several trials would be drawn over each other.
        ray.data.DataContext.get_current().enable_progress_bars = False
        return by_key[parameters["trial"]].do()

    tuner = ray.tune.Tuner(
        # A trial's own process only waits: a CPU for it could leave none for its workers.
        ray.tune.with_resources(run_trial, {"CPU": 0, "memory": 1}),
        param_space={"trial": ray.tune.grid_search(list(by_key))},
        tune_config=ray.tune.TuneConfig(
            max_concurrent_trials=slots(context.config, len(by_key)),
            scheduler=scheduler,
            reuse_actors=True,  # with the training workers that a trial's process has started
        ),
        run_config=ray.tune.RunConfig(
            name="tune",
            storage_path=context.run.path("ablation"),
            verbose=0,
            callbacks=[watch],
            # Its process dies with its node; what it had built, and its checkpoints, are in the run's folder.
            failure_config=ray.tune.FailureConfig(max_failures=context.config.compute.max_failures),
        ),
    )

    def ask(name: str) -> None:
        log.warning("ablation: %s; the trainings finish their step and write a checkpoint%s", name, HINT)

    with on_stop_signal(ask) as watch.asked:
        return _errors(tuner.fit())


def _quieten_tune() -> None:
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # results.py writes what is of use
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it misses the files of its loggers
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its box names a TensorBoard folder that holds nothing
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a trial's last word holds no metric
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # `fit` would return as if all were through


def _errors(ended: Iterable[Any]) -> dict[str, str]:
    """Trial key to the last line of its error, of Tune's results."""
    errors = {}
    for result in ended:
        error = str(result.error) if result.error else (result.metrics or {}).get("error")
        if error:
            key = result.config["trial"]
            errors[key] = error.strip().splitlines()[-1]
            log.error("ablation: %s failed: %s", key, errors[key])
    return errors


def slots(config: Config, num_trials: int) -> int:
    """Number of trials side by side: as many as the present nodes carry, all where the cluster grows."""
    compute = config.compute
    fitting = [num_trials, compute.max_concurrent_trials or num_trials]
    if not cluster.is_growing():
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        fitting.append(sum(_workers_on(node, config) for node in nodes) // compute.num_workers)
    return max(1, min(fitting))


def _workers_on(node: dict[str, float], config: Config) -> int:
    cpus, gpus = config.compute.cpus_per_worker, config.compute.gpus_per_worker
    fitting = [int(node.get("CPU", 0) / cpus)]
    if gpus:  # a fraction is one of a single GPU
        fitting.append(int(node.get("GPU", 0) * int(1 / gpus)) if gpus < 1 else int(node.get("GPU", 0) / gpus))
    return min(fitting)
