"""Runs trials by Ray Tune: side by side as the cluster allows, each with its own Ray Train workers, in waves."""

import dataclasses
import functools
import logging
import math
import os
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import ray
import ray.data
import ray.tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from ranksr import cluster, metrics, pipeline, progress, storage
from ranksr.ablation import results
from ranksr.ablation.schedule import Cost, Plans, Wave, cost, next_wave, plan_trial
from ranksr.ablation.study import EarlyStopping, Study, Trial, prepare, varied
from ranksr.config import Config, UserError
from ranksr.runs import Run, Stage
from ranksr.train.journal import read_metrics
from ranksr.train.launch import HINT, STOP_FILE, Asked, on_stop_signal
from ranksr.train.loop import StopRequested

log = logging.getLogger(__name__)

Rows = dict[str, list[results.Row]]
"""By study."""

LOOK_FOR_ORPHANS_SECONDS = 1.0


def expected_cost(studies: dict[str, Study], context: pipeline.Context) -> Cost:
    """What the run and all trials have to build, before any of it is; starts Ray when it is anything."""
    trials = prepare(studies, context.config)
    plans = {"": pipeline.plan(context), **_Asked(studies, trials, context).plans()}
    if any(not stage.done for stages in plans.values() for stage in stages):
        context.start_ray()  # the CPUs tell how many trials run side by side
    slots = _slots(context.config, len(trials)) if ray.is_initialized() else 1
    return cost(plans, context.config.compute.num_workers, slots, _earlier(context.run.trials))


def _earlier(run: Run) -> list[Stage]:
    """The stages that ablations of this run have left, in other studies too."""
    folders = [path.split("/")[0] for path, _ in storage.list_files(run.root) if path.endswith("/stage.json")]
    return [stage for folder in folders if (stage := run.recorded(folder))]


@dataclasses.dataclass(frozen=True)
class _Asked:
    """The studies of one command and their trials."""

    studies: dict[str, Study]
    trials: list[Trial]
    context: pipeline.Context
    known: dict[str, results.Known] = dataclasses.field(default_factory=dict)

    def plans(self) -> dict[str, list[Stage]]:
        """How the stages of the trials stand."""
        return {trial.key: self.plan(trial.key) for trial in self.trials}

    def watched(self, trial: Trial) -> str | None:
        return self.studies[trial.study].watched

    def plan(self, key: str) -> list[Stage]:
        """How the stages of one trial stand."""
        trial = next(trial for trial in self.trials if trial.key == key)
        return plan_trial(trial.config, self.context.run, self.context.digests, self.watched(trial))

    def write(self, study: str, plans: Plans, errors: dict[str, str]) -> list[results.Row]:
        """Write what a study leaves, as things stand; `plans` are those of the trials that have got on."""
        trials = [trial for trial in self.trials if trial.study == study]
        if study not in self.known:
            self.known[study] = results.Known(varied(trials))
        run = self.context.run
        return results.write_results(run, study, self.studies[study], trials, plans, errors, self.known[study])


def run_studies(studies: dict[str, Study], context: pipeline.Context) -> Rows:
    """Run every unfinished trial and write what the ablations leave; returns the trials' rows of results.json.

    The run itself must be finished: trials share its stages. A failing trial does not stop the others; the next start
    tries it again. A trial that early stopping has ended is not taken up again.
    """
    asked = _Asked(studies, prepare(studies, context.config), context)
    errors: dict[str, str] = {}
    wave: Wave = {}
    while True:
        plans = asked.plans()
        rows = {name: asked.write(name, plans, errors) for name in studies}
        states = zip(asked.trials, [row["state"] for each in rows.values() for row in each], strict=True)
        open_plans = {trial.key: plans[trial.key] for trial, state in states if state == "waiting"}
        before, wave = wave, next_wave(open_plans)
        if not wave:
            break
        assert wave != before, f"nothing was built, and no error came back: {wave}"
        context.start_ray()
        said = _run_wave(asked, wave, open_plans, errors)
        errors |= _failed(asked, said, wave, open_plans)
    for name, study in studies.items():
        of_study = [trial for trial in asked.trials if trial.study == name]
        results.write_tensorboard(context.run, name, study, of_study, rows[name])
    return rows


def _failed(asked: _Asked, said: dict[str, str], wave: Wave, plans: Plans) -> dict[str, str]:
    """Trial -> why it cannot go on: its own error, or that of a trial that built a stage for it."""
    failed: dict[str, str] = {}
    for trial in asked.trials:
        if trial.key in said:
            now = asked.plan(trial.key)
            failed |= {s.fingerprint: said[trial.key] for s in now if s.name in wave[trial.key] and not s.done}
    return {
        trial: failed[stage.fingerprint]
        for trial, stages in plans.items()
        for stage in stages
        if stage.fingerprint in failed
    }


def _run_wave(asked: _Asked, wave: Wave, plans: Plans, errors: dict[str, str]) -> dict[str, str]:
    """Build what the wave says; returns the error of each trial that failed. `errors` are those of earlier waves."""
    upto = ", ".join(sorted({name for names in wave.values() for name in names}))
    log.info("ablation: a wave of %d trials, each up to its %s", len(wave), upto)
    said: dict[str, str] = {}
    watched: dict[str, list[Trial]] = {}
    for trial in asked.trials:
        if trial.key in wave:
            last = wave[trial.key] == [plans[trial.key][-1].name]
            watched.setdefault(trial.study if last and asked.studies[trial.study].early_stopping else "", []).append(
                trial
            )

    def tell(key: str) -> None:
        asked.write(key.split("/")[0], {key: asked.plan(key)}, {**errors, **said})

    context = asked.context
    for name, group in watched.items():
        work = [
            _Work(trial, wave[trial.key], context.run.trials, context.digests, asked.watched(trial)) for trial in group
        ]
        if not name:
            said |= _tune(work, context, None, tell)
            continue
        study = asked.studies[name]
        assert study.early_stopping
        stages = {trial.key: next(s for s in plans[trial.key] if s.name == study.method) for trial in group}
        work = [dataclasses.replace(each, tuned=study.method) for each in work]
        steps = max(trial.config.methods[study.method].train.steps for trial in group)
        stop = functools.partial(results.write_stopped, context.run, name)
        spared = {trial.key for trial in group if trial.name == study.base}
        scheduler = Stopping(study.early_stopping, steps, stages, stop, spared)
        scheduler.replay(_finished_curves(name, study, context))
        said |= _tune(work, context, scheduler, tell)
    return said


def _finished_curves(name: str, study: Study, context: pipeline.Context) -> dict[str, list[results.Row]]:
    """What the trainings of earlier starts reached, as far as they are over."""
    entry = storage.read_json(context.run.path("ablation", name, "results.json"))
    over = [row["stages"][study.method] for row in entry["trials"] if row["state"] in ("done", "stopped")]
    return {stage: read_metrics(context.run.path(stage, "metrics.jsonl")) for stage in over}


@dataclasses.dataclass(frozen=True)
class _Work:
    """What a trial's own process does."""

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
        except (UserError, storage.StorageError) as error:
            return {"error": str(error)}
        except Exception as error:
            log.exception("ablation: %s failed", self.trial.key)
            return {"error": str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)}
        return {"error": None}

    def stop_files(self) -> list[str]:
        """Of the training that has begun, if one has: it ends after the step, with a checkpoint."""
        trainings = {"ranker", *self.trial.config.methods}
        stages = [stage for stage in pipeline.plan(self._context) if stage.name in trainings]
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


class Stopping(ASHAScheduler):
    """ASHA that asks a trial to stop instead of killing it.

    A killed trial would leave the placement group of its Train workers behind, whose CPUs the others wait for; one that
    is asked writes a checkpoint, and its curve is whole.
    """

    def __init__(
        self,
        early: EarlyStopping,
        steps: int,
        stages: dict[str, Stage],
        stop: Callable[[str, results.Row], None],
        spared: Collection[str],
    ) -> None:
        """`stages`: of each trial, the training that is watched. `stop` remembers a fingerprint and a validation.

        `spared` are trials that the others are compared with: they take their places in the rungs and go on.
        """
        lower = metrics.metric_info(early.metric).lower_is_better
        super().__init__(
            time_attr="step",
            metric=early.metric,
            mode="min" if lower else "max",
            max_t=steps,
            grace_period=max(1, round(early.grace_fraction * steps)),
            reduction_factor=early.reduction_factor,
        )
        self._worst = math.inf if lower else -math.inf
        self._steps, self._stages, self._stop = steps, stages, stop
        self._spared, self._asked = spared, set[str]()

    def replay(self, curves: dict[str, list[results.Row]]) -> None:
        """Take the validations of trainings that are over into the rungs."""
        for name, rows in curves.items():
            over = _Over(name)
            self.on_trial_add(None, over)
            for row in rows:
                super().on_trial_result(None, over, self._comparable(row))

    def _comparable(self, result: dict[str, Any]) -> dict[str, Any]:
        """NaN, which would never be below a rung's cutoff, counts as the worst."""
        value = result.get(self._metric)
        return {**result, self._metric: self._worst} if value is not None and math.isnan(value) else result

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        key = trial.config["trial"]
        if key in self._asked:  # what it still reports is no part of a rung
            return TrialScheduler.CONTINUE
        decision = super().on_trial_result(tune_controller, trial, self._comparable(result))
        if decision == TrialScheduler.STOP and result["step"] < self._steps and key not in self._spared:
            self._asked.add(key)
            stage, value = self._stages[key], result[self._metric]
            log.info("ablation: %s stops early: %s %.4g at step %d", key, self._metric, value, result["step"])
            self._stop(stage.fingerprint, {"step": result["step"], self._metric: value})
            storage.write_bytes(stage.path(STOP_FILE), b"")
        return TrialScheduler.CONTINUE


@dataclasses.dataclass(frozen=True)
class _Over:
    """A trial of an earlier start, as far as ASHA looks at it."""

    trial_id: str


class _Watch(TrialProgressCallback):
    """Says how far the trials are, in place of Tune's own lines, frees what a dead one held, and ends when asked to."""

    def __init__(self, work: dict[str, _Work], tell: Callable[[str], None]) -> None:
        super().__init__()
        self._over, self._work, self._tell, self._looked = 0, work, tell, 0.0
        self.asked = Asked()
        """By which signal; `fit` then ends by SystemExit once the trainings have written a checkpoint."""
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
            for _ in range(cluster.remove_orphans()):
                log.warning("ablation: a trial's process died; the CPUs and GPUs of its workers are free again")
            self._looked = time.monotonic()

    def _stop(self, running: list[_Work]) -> None:
        """Ask the trainings to stop, and leave once they have; a data job goes on from its parts."""
        assert self.asked.by is not None
        if self._stop_files is None:
            self._stop_files = [path for work in running for path in work.stop_files()]
            for path in self._stop_files:
                storage.write_bytes(path, b"")
        if not any(map(storage.exists, self._stop_files)):
            log.warning("ablation: stopped by %s; the same command continues", self.asked.by.name)
            raise SystemExit(self.asked.exit_code)


def _tune(
    work: Sequence[_Work], context: pipeline.Context, scheduler: Stopping | None, tell: Callable[[str], None]
) -> dict[str, str]:
    """Do the work side by side, `tell` of each trial that is through; returns the errors by trial."""
    by_key = {each.trial.key: each for each in work}
    watch = _Watch(by_key, tell)
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # results.py writes what is of use
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it misses the files of its loggers
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its box names a TensorBoard folder that holds nothing
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a trial's last word holds no metric
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # `fit` would return as if all were through

    def run_trial(parameters: dict[str, Any]) -> dict[str, Any]:
        # Tune gives the trial its own process; its training workers and data tasks are scheduled beside it.
        progress.log_lines(f"{parameters['trial']}: %(message)s")
        progress.quieten_ray_data()
        # The bars of several trials would be drawn over each other.
        ray.data.DataContext.get_current().enable_progress_bars = False
        return by_key[parameters["trial"]].do()

    tuner = ray.tune.Tuner(
        # A trial's own process only waits: a CPU for it could leave none for its workers.
        ray.tune.with_resources(run_trial, {"CPU": 0, "memory": 1}),
        param_space={"trial": ray.tune.grid_search(list(by_key))},
        tune_config=ray.tune.TuneConfig(max_concurrent_trials=_slots(context.config, len(by_key)), scheduler=scheduler),
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
        ended = tuner.fit()
    errors = {}
    for result in ended:
        error = str(result.error) if result.error else (result.metrics or {}).get("error")
        if error:
            key = result.config["trial"]
            errors[key] = error.strip().splitlines()[-1]
            log.error("ablation: %s failed: %s", key, errors[key])
    return errors


def _slots(config: Config, num_trials: int) -> int:
    """How many trials run side by side: as many as the present nodes carry, all where the cluster grows."""
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
