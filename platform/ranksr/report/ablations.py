"""What the ablations of a run left: every trial with its settings, states, scores and validation curves."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from ranksr import storage
from ranksr.config import Config
from ranksr.report.intervals import Scores
from ranksr.train.journal import read_metrics

AllScores = dict[tuple[str, str], Scores]
"""By test set and metric."""


@dataclasses.dataclass(frozen=True)
class Seeded:
    """A trial with one seed."""

    seed: int
    overrides: list[str]
    """All of them, on top of the run's config."""
    state: str
    """`done`, `stopped` (early, by ASHA), `failed` or `waiting`."""
    error: str | None
    step: int | None
    """How far the method's training got, of `steps`; None: it has not begun."""
    steps: int
    validation: dict[str, float]
    """Metric to its last value."""
    stages: dict[str, str]
    """Stage to its folder, relative to the run."""
    ranker: dict[str, Any] | None
    """What `train.ranker_report.summarise` says of its Ranker."""
    seconds: float | None
    curve: list[dict[str, Any]]
    """Validation rows of the method's metrics.jsonl: {"step", "split", "<metric>": float}."""


@dataclasses.dataclass(frozen=True)
class Trial:
    name: str
    settings: dict[str, Any]
    """Values of the keys that the ablation varies."""
    seeds: list[Seeded]
    scores: AllScores
    """Of the seeds that are done."""

    def config(self, of_run: Config) -> Config:
        """That of its first seed."""
        return of_run.with_overrides(self.seeds[0].overrides)


@dataclasses.dataclass(frozen=True)
class Ablation:
    name: str
    about: str
    method: str
    """Whose scores are compared."""
    base: str
    """Name of the trial that the others are compared with."""
    table: int | None
    """The paper's table that it repeats."""
    varied: list[str]
    """Dotted keys that differ among the trials, seeds left out."""
    search: str | None
    """The validation metric by which hopeless trials are stopped early; None: no trial is."""
    trials: list[Trial]

    def trial(self, name: str) -> Trial | None:
        return next((trial for trial in self.trials if trial.name == name), None)


def read_ablations(run_root: str) -> list[Ablation]:
    """Every ablation of a run that has results, by name. `run_root` is local or s3://bucket/prefix."""
    paths = [name.split("/") for name, _ in storage.list_files(storage.join(run_root, "ablation"))]
    return [read_ablation(run_root, path[0]) for path in paths if path[1:] == ["results.json"]]


def read_ablation(run_root: str, name: str) -> Ablation:
    """<run_root>/ablation/<name>."""
    folder = storage.join(run_root, "ablation", name)
    study = storage.read_json(storage.join(folder, "results.json"))
    path = storage.join(folder, "results.parquet")
    scores = scores_by_label(storage.read_table(path).to_pylist(), "trial") if storage.exists(path) else {}
    entries: dict[str, list[dict[str, Any]]] = {}
    for entry in study["trials"]:
        entries.setdefault(entry["trial"], []).append(entry)
    return Ablation(
        name=study["name"],
        about=study["about"],
        method=study["method"],
        base=study["base"],
        table=study["table"],
        varied=study["varied"],
        search=study["search"] and study["search"]["metric"],
        trials=[
            Trial(
                name=trial,
                settings=seeds[0]["settings"],
                seeds=[_seeded(run_root, study["method"], entry) for entry in seeds],
                scores=scores.get(trial, {}),
            )
            for trial, seeds in entries.items()
        ],
    )


def _seeded(run_root: str, method: str, entry: dict[str, Any]) -> Seeded:
    folder = entry["stages"].get(method)
    rows = read_metrics(storage.join(run_root, folder, "metrics.jsonl")) if folder else []
    names = {field.name for field in dataclasses.fields(Seeded)} - {"curve"}
    entry = {**entry, **{name: entry[name] and storage.as_numbers(entry[name]) for name in ("validation", "ranker")}}
    return Seeded(**{name: entry[name] for name in names}, curve=[row for row in rows if row["split"] == "val"])


def scores_by_label(rows: Iterable[dict[str, Any]], label: str) -> dict[str, AllScores]:
    """Value of the column `label` to its scores. A row has test_set, image, metric, value (null: none), seed."""
    found: dict[str, Any] = {}
    for row in rows:
        seeds = found.setdefault(row[label], {}).setdefault((row["test_set"], row["metric"]), {})
        value = float("nan") if row["value"] is None else row["value"]
        seeds.setdefault(row["seed"], {})[row["image"]] = value
    return found
