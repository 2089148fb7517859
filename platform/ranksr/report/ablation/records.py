"""The record of every trial in <run>/ablation/<name>/results.json, with its scores and validation curves."""

from typing import Any, Literal

import pandas as pd
import pydantic

from ranksr import storage
from ranksr.config import Config, with_overrides
from ranksr.report.intervals import Scores
from ranksr.runs import METRICS, RESULTS, SCORES_OF_TRIALS
from ranksr.train.journal import read_metrics

AllScores = dict[tuple[str, str], Scores]
"""(test set, metric) to scores."""


class _Stored(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Record(_Stored):
    """One trial with one seed, as results.json holds it."""

    trial: str
    seed: int
    overrides: list[str]
    """Every override on top of the run's config, the seed included."""
    settings: dict[str, Any]
    """Values of the keys that the ablation varies."""
    state: Literal["done", "stopped", "failed", "waiting"]
    """`stopped`: early, by ASHA."""
    error: str | None
    step: int | None
    """Last validated step of the method's training; None before the first."""
    steps: int
    validation: dict[str, float]
    """Metric to its last value."""
    stages: dict[str, str]
    """Stage to its folder, relative to the run."""
    rankers: dict[str, dict[str, Any]]
    """Ranker that steers the method to its result of `train.held_out.summarise`; only trained ones."""
    seconds: float
    """Time spent on the stages that were built for the ablation."""
    curve: list[dict[str, Any]] = pydantic.Field(default=[], exclude=True)
    """Validation rows of the method's metrics.jsonl: {"step", "split", "<metric>": float}. Read, not stored."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _with_one_ranker(cls, stored: Any) -> Any:
        """Of a record from before a method had several, whose one had no other name."""
        if not isinstance(stored, dict) or "ranker" not in stored:
            return stored
        only = stored["ranker"]
        return {
            **{key: value for key, value in stored.items() if key != "ranker"},
            "rankers": {"ranker": only} if only else {},
        }

    @pydantic.field_validator("validation", "rankers", mode="before")
    @classmethod
    def _as_numbers(cls, stored: Any) -> Any:
        """JSON has null for NaN and a text for an infinity."""
        return storage.as_numbers(stored) if stored else stored


class _About(_Stored):
    name: str
    about: str
    method: str
    """The method whose scores are compared."""
    base: str
    """Name of the trial that the others are compared with."""
    table: int | None
    """The paper's table that it repeats."""
    varied: list[str]
    """Dotted keys that differ among the trials, seeds left out."""
    search: str | None
    """The validation metric of early stopping; None without it."""


class Results(_About):
    """results.json."""

    trials: list[Record]


class Trial(_Stored):
    """All seeds of one trial."""

    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    name: str
    settings: dict[str, Any]
    seeds: list[Record]
    scores: AllScores
    """Scores of the seeds that are done."""

    def config(self, of_run: Config) -> Config:
        """The config of its first seed."""
        return with_overrides(of_run, self.seeds[0].overrides)


class Ablation(_About):
    """results.json with the scores of results.parquet, trials grouped by name."""

    trials: list[Trial]

    def trial(self, name: str) -> Trial | None:
        return next((trial for trial in self.trials if trial.name == name), None)


def read_ablations(run_root: str) -> list[Ablation]:
    """Every ablation of a run that has results, by name. `run_root` is local or s3://bucket/prefix."""
    paths = [name.split("/") for name, _ in storage.list_files(storage.join(run_root, "ablation"))]
    return [read_ablation(run_root, path[0]) for path in paths if path[1:] == [RESULTS]]


def read_results(run_root: str, name: str) -> Results:
    """The records of one ablation, without scores and curves."""
    return Results.model_validate(storage.read_json(storage.join(run_root, "ablation", name, RESULTS)))


def read_ablation(run_root: str, name: str) -> Ablation:
    """<run_root>/ablation/<name>."""
    found = read_results(run_root, name)
    path = storage.join(run_root, "ablation", name, SCORES_OF_TRIALS)
    scores = scores_by_label(storage.read_table(path).to_pandas(), "trial") if storage.exists(path) else {}
    seeds: dict[str, list[Record]] = {}
    for record in found.trials:
        seeds.setdefault(record.trial, []).append(_with_curve(run_root, found.method, record))
    trials = [
        Trial(name=trial, settings=each[0].settings, seeds=each, scores=scores.get(trial, {}))
        for trial, each in seeds.items()
    ]
    return Ablation(**found.model_dump(exclude={"trials"}), trials=trials)


def _with_curve(run_root: str, method: str, record: Record) -> Record:
    folder = record.stages.get(method)
    rows = read_metrics(storage.join(run_root, folder, METRICS)) if folder else []
    return record.model_copy(update={"curve": [row for row in rows if row["split"] == "val"]})


def scores_by_label(rows: pd.DataFrame, label: str) -> dict[str, AllScores]:
    """Value of the column `label` to its scores. `rows`: test_set, image, metric, value (NaN: none), seed."""
    found: dict[str, AllScores] = {}
    for key, group in rows.groupby([label, "test_set", "metric"], sort=False):
        name, test_set, metric = map(str, key)
        found.setdefault(name, {})[test_set, metric] = group.pivot(index="image", columns="seed", values="value")
    return found
