"""An ablation as a table: means over seeds, differences to the base trial, states, the paper's numbers; and as CSV."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from ranksr import terminal
from ranksr.config import Config
from ranksr.metrics import metric_info
from ranksr.report import intervals, paper, tables
from ranksr.report.ablation.records import Ablation, AllScores, Record, Trial
from ranksr.report.intervals import Difference, Interval
from ranksr.report.rank import accuracy

NOISE = "≈"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One trial on one test set by one metric."""

    column: tables.Column
    value: Interval
    """Over seeds."""
    difference: Difference | None
    """To the base; None for the base itself, and where one of the two has no score."""

    @property
    def text(self) -> str:
        """E.g. `3.28 ± 0.04`."""
        return tables.number(self.value.mean) + self._half_width(self.value)

    @property
    def difference_text(self) -> str:
        """E.g. `−0.12 ± 0.05, seeds ± 0.09`; empty without a difference."""
        if self.difference is None or not self.difference.over_images.count:
            return ""
        images, seeds = self.difference.over_images, self.difference.over_seeds
        signed = f"{images.mean:+z.{self._digits}f}".replace("-", "−")
        return signed + self._half_width(images) + f", seeds{self._half_width(seeds)}" * seeds.known

    @property
    def verdict(self) -> str:
        """`same`, `better`, `worse` or NOISE; empty where nothing can be said."""
        noise = self.difference.within_noise if self.difference else None
        if self.difference is None or noise is None:
            return ""
        if self.difference.over_images.mean == self.difference.over_images.half_width == 0:
            return "same"
        lower = self.difference.over_images.mean < 0
        better = "better" if lower == metric_info(self.column.metric).lower_is_better else "worse"
        return NOISE if noise else better

    @property
    def _digits(self) -> int:
        return tables.decimals(self.value.mean)

    def _half_width(self, found: Interval) -> str:
        return f" ± {found.half_width:.{self._digits}f}" if found.known else ""


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    settings: list[str]
    """Values in the order of the varied keys."""
    num_done: int
    """Number of finished seeds."""
    not_done: list[str]
    """States of the other seeds, one sentence for all seeds of one state."""
    failed: bool
    """Whether a seed is."""
    cells: list[Cell]
    paper_label: str | None
    paper_scores: list[float | None]


@dataclasses.dataclass(frozen=True)
class Table:
    ablation: Ablation
    keys: list[str]
    """The varied keys, shortened."""
    columns: list[tables.Column]
    rows: list[Row]
    paper_metrics: list[str]
    """Metrics for which the paper prints a number of at least one trial."""
    rankers: list[list[str]]
    """A heading and a line for each trial; empty when all trials have the same Ranker."""

    @property
    def width(self) -> int:
        """Columns of the page's table."""
        return 1 + len(self.keys) + len(self.columns) + (len(self.paper_metrics) + 1) * bool(self.paper_metrics)

    @property
    def num_seeds(self) -> int:
        """Number of finished seeds per trial; 0 where trials differ in it."""
        counts = {row.num_done for row in self.rows} - {0}
        return counts.pop() if len(counts) == 1 else 0

    @property
    def notes(self) -> list[str]:
        """Remarks on single differences."""
        base = self.ablation.base
        said = [note for row in self.rows for note in notes(f"{row.name} and {base}", row.cells)]
        if self.columns and not any(cell.value.count for row in self.rows if row.name == base for cell in row.cells):
            said.append(f"The base {base} has no scores, so there are no differences.")
        return said


def table(ablation: Ablation, config: Config) -> Table:
    """`config` is the run's."""
    columns = columns_of(config, (key for trial in ablation.trials for key in trial.scores))
    repeated = [paper.row_of_trial(ablation.table, config, trial.seeds[0].overrides) for trial in ablation.trials]
    metrics = dict.fromkeys(column.metric for column in columns)
    printed = [name for name in metrics if any(row and row.score(name) is not None for row in repeated)]
    base = ablation.trial(ablation.base)
    return Table(
        ablation=ablation,
        keys=_short(ablation.varied),
        columns=columns,
        rows=[
            Row(
                name=trial.name,
                settings=[_plain(trial.settings.get(key)) for key in ablation.varied],
                num_done=sum(each.state == "done" for each in trial.seeds),
                not_done=not_done(trial),
                failed=any(each.state == "failed" for each in trial.seeds),
                cells=cells(trial.scores, base.scores if base and trial is not base else {}, columns),
                paper_label=row.label if row else None,
                paper_scores=[row.score(name) if row else None for name in printed],
            )
            for trial, row in zip(ablation.trials, repeated, strict=True)
        ],
        paper_metrics=printed,
        rankers=_rankers(ablation, config),
    )


def columns_of(config: Config, present: Iterable[tuple[str, str]]) -> list[tables.Column]:
    """A column for each present (test set, metric), in the order of the config."""
    orders = [item.name for item in config.test_sets], config.scoring.metrics
    ranks = [{name: place for place, name in enumerate(order)} for order in orders]
    keys = sorted(
        set(present), key=lambda key: [(of.get(name, len(of)), name) for of, name in zip(ranks, key, strict=True)]
    )
    return [tables.Column(*key, False, tables.is_calibrated(key[1], config.scoring)) for key in keys]


def cells(scores: AllScores, base: AllScores, columns: Sequence[tables.Column]) -> list[Cell]:
    """A cell a column; `base` is empty for the base itself."""
    found = []
    for column in columns:
        key = column.test_set, column.metric
        both = key in scores and key in base
        compared = intervals.difference(scores[key], base[key]) if both else None
        found.append(Cell(column, intervals.over_seeds(scores.get(key, pd.DataFrame())), compared))
    return found


def notes(pair: str, found: Iterable[Cell]) -> list[str]:
    """Sentences on differences that are not over all images, or not over common seeds. `pair` names the two sides."""
    said: dict[str, list[str]] = {}
    for cell in found:
        if (compared := cell.difference) and compared.num_left_out:
            count = compared.over_images.count
            text = f"compared on {count} of {count + compared.num_left_out} images, where both have a finite score"
            said.setdefault(text, []).append(cell.column.name)
        if compared and not compared.num_seeds:
            said.setdefault("no common seed, so means over each side’s own are compared", []).append(cell.column.name)
    return [f"{pair}, {', '.join(places)}: {text}." for text, places in said.items()]


def _short(keys: Sequence[str]) -> list[str]:
    """The last two parts of each key, where that tells them apart."""
    short = [".".join(key.split(".")[-2:]) for key in keys]
    return short if len(set(short)) == len(short) else list(keys)


def _plain(value: Any) -> str:
    """A setting for a table: `1`, `srgan, hr`."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else tables.NOTHING if value is None else str(value)


def not_done(trial: Trial) -> list[str]:
    """E.g. `failed: out of memory (seed 2)`, or `waiting (seeds 1, 2)`."""
    said: dict[str, list[int]] = {}
    for each in trial.seeds:
        if each.state != "done":
            said.setdefault(_state(each), []).append(each.seed)
    one = len(trial.seeds) == 1
    return [
        text if one else f"{text} (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})"
        for text, seeds in said.items()
    ]


def _state(each: Record) -> str:
    seen = ", ".join(
        f"{tables.METRIC_LABELS.get(name, name)} {tables.number(value)}" for name, value in each.validation.items()
    )
    seen = f"; validation {seen}" if seen else ""
    match each.state:
        case "failed":
            return f"failed: {each.error or 'no error message'}"
        case "stopped":
            return f"stopped early at step {each.step} of {each.steps}{seen}"
        case "waiting" if each.step:
            return f"waiting at step {each.step} of {each.steps}{seen}"
        case state:
            return state


def _rankers(ablation: Ablation, config: Config) -> list[list[str]]:
    """A row for each Ranker of each trial, over its seeds, where the trials have more than one."""
    found = dict[tuple[str, str], dict[str | None, dict[str, Any]]]()
    for trial in ablation.trials:
        for each in trial.seeds:
            for name, result in each.rankers.items():
                found.setdefault((trial.name, name), {})[each.stages.get(name)] = result
    if len({folder for of_ranker in found.values() for folder in of_ranker}) < 2:
        return []
    lines = [["trial", "Rankers", "SROCC", "paper", "pair accuracy", f"{accuracy.DISTANCE}, all pairs"]]
    lines[0] += [f"{accuracy.DISTANCE}, {', '.join(sorted(paper.TABLE_5_METHODS))}", "paper"]
    several = {of for of, _ in found if sum(of == other for other, _ in found) > 1}
    configs = {trial.name: trial.config(config) for trial in ablation.trials}
    for (of, name), of_ranker in found.items():
        judged, learned = of_ranker.values(), configs[of].rankers[name]
        right = _mean(judged, "pair_accuracy", ".1%")
        label = f"{of}: {name}" if of in several else of
        lines.append([label, str(len(judged)), _mean(judged, "srocc"), accuracy.printed(paper.ranker_srocc(learned))])
        lines[-1] += [right, _mean(judged, "score_distance"), _mean(map(_table_5, judged), "score_distance")]
        lines[-1].append(accuracy.printed(paper.score_distance(learned)))
    return lines


def _table_5(found: dict[str, Any]) -> dict[str, float]:
    """The distance for the two methods of the paper's Table 5."""
    pairs = found["score_distance_of"].items()
    distances = [distance for name, distance in pairs if set(name.split(", ")) == paper.TABLE_5_METHODS]
    return {"score_distance": distances[0]} if distances else {}


def _mean(found: Iterable[dict[str, Any]], key: str, form: str = ".3f") -> str:
    """Mean over Rankers, with its interval."""
    over = intervals.interval(value for each in found if (value := each.get(key)) is not None)
    spread = f" ± {over.half_width:{form}}" if over.known else ""
    return tables.NOTHING if math.isnan(over.mean) else f"{over.mean:{form}}{spread}"


def ablation_text(ablation: Ablation, config: Config) -> str:
    """The means and states for a terminal; `ranksr compare` has the differences."""
    found = table(ablation, config)
    lines = [["trial", *(f"{column.test_set} {column.label}" for column in found.columns), ""]]
    for row in found.rows:
        cells = [f"{cell.text} {cell.verdict}".rstrip() for cell in row.cells]
        lines.append([row.name, *cells, "; ".join(row.not_done)])
    return f"ablation {ablation.name}, {ablation.about} (base: {ablation.base})\n{terminal.aligned(lines)}"


CSV_COLUMNS = (
    *("state", "test_set", "metric", "num_seeds", "mean", "half_width_over_seeds", "base", "difference"),
    *("difference_half_width_over_images", "difference_half_width_over_seeds", "num_images", "images_left_out"),
    *("common_seeds", "within_noise", "paper_row", "paper_pirm_test"),
)


def to_csv(found: Table) -> str:
    """A row for each trial, test set and metric, at full precision. Half widths: 95 % intervals. Empty: unknown."""
    rows = []
    for row, trial in zip(found.rows, found.ablation.trials, strict=True):
        about = {"trial": row.name, **trial.settings, "state": "; ".join(row.not_done) or "done"}
        printed = dict(zip(found.paper_metrics, row.paper_scores, strict=True))
        rows += [
            {
                **about,
                "test_set": cell.column.test_set,
                "metric": cell.column.metric,
                "num_seeds": cell.value.count,
                "mean": cell.value.mean,
                "half_width_over_seeds": cell.value.half_width,
                "base": found.ablation.base,
                **_csv_difference(cell.difference),
                "paper_row": row.paper_label,
                "paper_pirm_test": printed.get(cell.column.metric),
            }
            for cell in row.cells
        ] or [about]
    return tables.csv_of(rows, ["trial", *found.ablation.varied, *CSV_COLUMNS])


def _csv_difference(found: Difference | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {
        "difference": found.over_images.mean,
        "difference_half_width_over_images": found.over_images.half_width,
        "difference_half_width_over_seeds": found.over_seeds.half_width,
        "num_images": found.over_images.count,
        "images_left_out": found.num_left_out,
        "common_seeds": found.num_seeds,
        "within_noise": found.within_noise,
    }
