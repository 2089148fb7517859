"""Ablations by Ray Tune: a trial is the pipeline with a few overrides, sharing what it does not change with its run."""

import dataclasses
import logging
from typing import Any

import pyarrow.compute
import ray
import ray.data
import ray.tune

from ranksr import pipeline, progress, storage
from ranksr.config import Ablation, Config, Trial, UserError
from ranksr.runs import Run

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """A trial with everything its worker needs."""

    trial: Trial
    config: Config
    run: Run


def prepare(ablation: Ablation, config: Config, run: Run, name: str) -> list[_Prepared]:
    """The trials with their configs and folders; raises UserError for an override that does not fit."""
    prepared = []
    for trial in ablation.trials:
        try:
            changed = config.with_overrides([*ablation.common, *trial.overrides])
        except UserError as error:
            raise UserError(f"ablation {name}, trial {trial.name}: {error}") from error
        pipeline.require_known(changed)
        prepared.append(_Prepared(trial, changed, Run(run.path("ablation", name, trial.name), parent=run)))
    return prepared


def run_ablation(ablation: Ablation, context: pipeline.Context, name: str) -> list[dict[str, Any]]:
    """Run every unfinished trial, write <run>/ablation/<name>/results.json, return its rows.

    The run itself must be finished: trials share its stages. A failing trial does not stop the others.
    """
    trials = prepare(ablation, context.config, context.run, name)
    waiting = [each for each in trials if not _finished(each)]
    log.info("ablation %s: %d trials, %d of them done", name, len(trials), len(trials) - len(waiting))
    errors = _run_trials(waiting, context, name) if waiting else {}
    rows = [_result(each, ablation.method, errors.get(each.trial.name)) for each in trials]
    storage.write_json(context.run.path("ablation", name, "results.json"), rows)
    return rows


def _finished(each: _Prepared) -> bool:
    return pipeline.plan(_context(each))[-1].done


def _context(each: _Prepared) -> pipeline.Context:
    return pipeline.Context(each.config, each.run, start_ray=lambda: None)


def _run_trials(waiting: list[_Prepared], context: pipeline.Context, name: str) -> dict[str, str]:
    """Tune the waiting trials; returns the error of each that failed."""
    context.start_ray()
    by_name = {each.trial.name: each for each in waiting}

    def run_trial(parameters: dict[str, Any]) -> None:
        # Tune gives the trial its own process; its training workers and data tasks are scheduled beside it.
        progress.log_to_stdout()
        # The bars of several trials would be drawn over each other.
        ray.data.DataContext.get_current().enable_progress_bars = False
        pipeline.build_stages(_context(by_name[parameters["trial"]]), [])

    tuner = ray.tune.Tuner(
        # A trial's own process only waits: a CPU for it could leave none for its workers.
        ray.tune.with_resources(run_trial, {"CPU": 0, "memory": 1}),
        param_space={"trial": ray.tune.grid_search(list(by_name))},
        tune_config=ray.tune.TuneConfig(max_concurrent_trials=_concurrency(context.config)),
        run_config=ray.tune.RunConfig(name="tune", storage_path=context.run.path("ablation", name), verbose=0),
    )
    errors = {}
    for result in tuner.fit():
        if result.error is not None:
            trial = result.config["trial"]
            errors[trial] = str(result.error).strip().splitlines()[-1]
            log.error("ablation %s: trial %s failed: %s", name, trial, errors[trial])
    return errors


def _concurrency(config: Config) -> int:
    compute = config.compute
    present = ray.cluster_resources()
    fitting = [present.get("CPU", 1) // (compute.num_workers * compute.cpus_per_worker)]
    if compute.gpus_per_worker:
        fitting.append(present.get("GPU", 0) // (compute.num_workers * compute.gpus_per_worker))
    if compute.max_concurrent_trials:
        fitting.append(compute.max_concurrent_trials)
    return max(1, int(min(fitting)))


def _result(each: _Prepared, method: str, error: str | None) -> dict[str, Any]:
    row = {"trial": each.trial.name, "overrides": list(each.trial.overrides), "error": error, "scores": []}
    evaluated = pipeline.plan(_context(each))[-1]
    if not evaluated.done:
        return {**row, "state": "failed", "error": error or "did not finish"}
    table = storage.read_table(evaluated.path("scores.parquet"))
    table = table.filter(pyarrow.compute.equal(table["method"], method))
    table = table.filter(pyarrow.compute.is_finite(table["value"]))
    means = table.group_by(["test_set", "metric"], use_threads=False).aggregate([("value", "mean")]).to_pylist()
    scores = [{"test_set": mean["test_set"], "metric": mean["metric"], "mean": mean["value_mean"]} for mean in means]
    return {**row, "state": "done", "scores": scores}
