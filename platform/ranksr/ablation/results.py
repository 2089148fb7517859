"""Writes the results of an ablation: results.json and results.parquet in <run>/ablation/<name>, TensorBoard runs."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute
import tensorboardX

from ranksr import storage
from ranksr.ablation.trials import Study, Trial
from ranksr.metrics import mean_score
from ranksr.report.ablation.records import Record, Results
from ranksr.runs import METRICS, RESULTS, SCORES, SCORES_OF_TRIALS, STOPPED, Run, Stage
from ranksr.train import hparams
from ranksr.train.journal import ABOUT, LAYOUT, Row, read_metrics

SCHEMA = pa.schema(
    [
        ("trial", pa.string()),
        ("seed", pa.int64()),
        ("test_set", pa.string()),
        ("image", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
    ]
)


@dataclasses.dataclass
class Known:
    """Records and scores of a study's trials in memory, so that only trials that made progress are read again."""

    settings: dict[str, dict[str, Any]]
    """Trial key to the values of its varied settings (`study.varied`)."""
    records: dict[str, Record] = dataclasses.field(default_factory=dict)
    scores: dict[str, pa.Table] = dataclasses.field(default_factory=dict)


def write_results(
    run: Run,
    name: str,
    study: Study,
    trials: Sequence[Trial],
    plans: Mapping[str, Sequence[Stage]],
    errors: Mapping[str, str],
    known: Known,
) -> list[Record]:
    """Write results.json and results.parquet as things stand, and return the trials' records.

    `plans` and `errors` are by trial key; the errors of those that failed. Of trials without a plan, what is known.
    """
    settings, stopped = known.settings, read_stopped(run, name)
    for trial in (trial for trial in trials if trial.key in plans):
        stages = list(plans[trial.key])
        known.records[trial.key] = _record(
            run, study, trial, stages, errors.get(trial.key), stopped, settings[trial.key]
        )
        if stages[-1].done:
            known.scores[trial.key] = _scores(trial, study.method, stages[-1])
    records = [known.records[trial.key] for trial in trials]
    scores = [known.scores[trial.key] for trial in trials if trial.key in known.scores]
    table = pa.concat_tables([SCHEMA.empty_table(), *scores])
    storage.write_table(run.path("ablation", name, SCORES_OF_TRIALS), table)
    found = Results(
        name=name,
        about=study.about,
        method=study.method,
        table=study.table,
        base=study.base,
        varied=list(next(iter(settings.values()))),
        search=study.early_stopping.metric if study.early_stopping else None,
        trials=records,
    )
    storage.write_json(run.path("ablation", name, RESULTS), found.model_dump())
    return records


def _record(
    run: Run,
    study: Study,
    trial: Trial,
    stages: list[Stage],
    error: str | None,
    stopped: dict[str, Row],
    settings: dict[str, Any],
) -> Record:
    by_name = {stage.name: stage for stage in stages}
    training = by_name[study.method]
    seen = [row for row in read_metrics(training.path(METRICS)) if row["split"] == "val"]
    state: Literal["done", "stopped", "failed", "waiting"]
    if stages[-1].done:
        state = "done"
    elif training.fingerprint in stopped and trial.name != study.base:  # it may have become the base since
        state, seen = "stopped", seen or [stopped[training.fingerprint]]
    else:
        state = "failed" if error else "waiting"
    last = seen[-1] if seen else {}
    judged = {
        name: by_name[name].results.get("every_validation_location")
        for name in trial.config.steered_by(study.method)
        if name in by_name
    }
    return Record(
        trial=trial.name,
        seed=trial.seed,
        overrides=trial.overrides,
        settings=settings,
        state=state,
        error=error,
        step=last.get("step"),
        steps=trial.config.methods[study.method].train.steps,
        validation={key: value for key, value in last.items() if key not in ABOUT},
        stages={stage.name: stage.folder.removeprefix(run.root).strip("/") for stage in stages},
        rankers={name: found for name, found in judged.items() if found},
        seconds=sum(stage.results.get("seconds") or 0 for stage in stages if run.trials.root in stage.folder),
    )


def _scores(trial: Trial, method: str, evaluation: Stage) -> pa.Table:
    table = storage.read_table(evaluation.path(SCORES))
    table = table.filter(pyarrow.compute.equal(table["method"], method))
    columns = {name: table[name] for name in SCHEMA.names if name in table.column_names}
    columns |= {"trial": [trial.name] * len(table), "seed": [trial.seed] * len(table)}
    return pa.table({name: columns[name] for name in SCHEMA.names}).cast(SCHEMA)


def _stopped_path(run: Run, name: str) -> str:
    return run.path("ablation", name, STOPPED)


def read_stopped(run: Run, name: str) -> dict[str, Row]:
    """Fingerprint of a training that early stopping ended -> the validation by which it did."""
    path = _stopped_path(run, name)
    return storage.read_json(path) if storage.exists(path) else {}


def write_stopped(run: Run, name: str, fingerprint: str, validation: Row) -> None:
    """Remember, before it is told to stop, that this training need not go on."""
    storage.write_json(_stopped_path(run, name), {**read_stopped(run, name), fingerprint: validation})


def write_tensorboard(run: Run, name: str, study: Study, trials: Sequence[Trial], records: Sequence[Record]) -> None:
    """<run>/tensorboard/ablation/<name>/<trial>: its validation curve, varied settings and final scores.

    Events of a running training are in <run>/tensorboard/stages, whose folders trials share.
    """
    scores = _mean_scores(storage.read_table(run.path("ablation", name, SCORES_OF_TRIALS)))
    pairs = list(zip(trials, records, strict=True))
    settings = {trial.key: {**record.settings, "seed": trial.seed} for trial, record in pairs}
    common = hparams.experiment(settings.values(), (tag for means in scores.values() for tag in means))
    for trial, record in pairs:
        folder = run.path("tensorboard", "ablation", name, f"{trial.name}-seed{trial.seed}")
        for path, _ in storage.list_files(folder):
            storage.delete(storage.join(folder, path))  # an earlier start's
        with tensorboardX.SummaryWriter(folder) as board:
            board.add_custom_scalars(LAYOUT)
            for row in read_metrics(run.path(record.stages[study.method], METRICS)):
                if row["split"] == "val":
                    for tag in (tag for tag in row if tag not in ABOUT and not math.isnan(row[tag])):
                        board.add_scalar(f"val/{tag}", row[tag], row["step"])
            hparams.write(board, common, settings[trial.key])
            for tag, value in scores.get((trial.name, trial.seed), {}).items():
                board.add_scalar(tag, value, record.steps)


def _mean_scores(table: pa.Table) -> dict[tuple[str, int], dict[str, float]]:
    """(trial, seed) -> `final/<test set>/<metric>` -> mean over the images that have a score."""
    values: dict[tuple[str, int], dict[str, list[float]]] = {}
    for row in table.to_pylist():
        of_trial = values.setdefault((row["trial"], row["seed"]), {})
        of_trial.setdefault(f"final/{row['test_set']}/{row['metric']}", []).append(row["value"])
    means = {key: {tag: mean_score(each) for tag, each in tags.items()} for key, tags in values.items()}
    return {key: {tag: mean for tag, (mean, count) in tags.items() if count} for key, tags in means.items()}
