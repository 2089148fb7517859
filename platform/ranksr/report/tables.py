"""The report's main table: means over images, the best of each column, the paper's numbers; as CSV, Markdown, text."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from ranksr import terminal
from ranksr.config import Scoring
from ranksr.metrics import made_of, mean_score, metric_info
from ranksr.report import paper
from ranksr.report.story import Story

METRIC_LABELS = {"niqe": "NIQE", "pi": "PI", "ma": "Ma", "psnr": "PSNR", "ssim": "SSIM"}
METRIC_UNITS = {"psnr": "dB"}
NOTHING = "–"
CALIBRATED = "†"
"""Marks a metric whose model was fitted in this run; the remarks say so beside the table."""

CellScores = dict[tuple[str, str, str], list[float]]
"""(method, test_set, metric) to scores, without NaN."""


@dataclasses.dataclass(frozen=True)
class Column:
    test_set: str
    metric: str
    has_paper: bool
    """Whether the paper prints a number for any of the rows."""
    calibrated: bool
    """Whether the metric's model was fitted in this run, so that its values compare with no published ones."""

    @property
    def name(self) -> str:
        """E.g. `Set14 NIQE`."""
        return f"{self.test_set} {METRIC_LABELS.get(self.metric, self.metric)}"

    @property
    def label(self) -> str:
        """The metric with its unit, a dagger where it was calibrated here, and the direction of better."""
        arrow = "↓" if metric_info(self.metric).lower_is_better else "↑"
        return f"{labelled(self.metric)}{CALIBRATED * self.calibrated} {arrow}"


@dataclasses.dataclass(frozen=True)
class Cell:
    mean: float
    """Over the images that have a score; NaN when none has."""
    num_scored: int
    num_images: int
    """Number of images in the test set."""
    paper: float | None
    best: bool

    @property
    def partial(self) -> bool:
        """Whether the mean leaves some images out, which must stand beside it."""
        return 0 < self.num_scored < self.num_images

    @property
    def text(self) -> str:
        return number(self.mean)


@dataclasses.dataclass(frozen=True)
class Results:
    columns: list[Column]
    rows: list[tuple[str, list[Cell]]]
    """Method and its cells, in the order of the columns."""
    num_images: dict[str, int]
    """Test set to its number of images."""
    unscored: list[str]
    """One sentence for each reason why scores are missing."""


def labelled(metric: str) -> str:
    """The metric's name for a heading, with its unit."""
    name = METRIC_LABELS.get(metric, metric)
    return f"{name}, {METRIC_UNITS[metric]}" if metric in METRIC_UNITS else name


def is_calibrated(metric: str, scoring: Scoring) -> bool:
    """Whether the values of a metric depend on a model that this run fitted."""
    models = {"niqe": scoring.niqe_model, "ma": scoring.ma_model}
    return any(models.get(raw) == "fit" for raw in made_of(metric))


def number(value: float | None) -> str:
    """Two decimals; four for small values such as LPIPS; a dash for NaN and None."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{decimals(value)}f}"


def decimals(value: float) -> int:
    """Number of decimals that a value is shown with."""
    return 4 if abs(value) < 1 and value else 2


def results(story: Story) -> Results:
    """The main table: a row for each method of the config, a column for each test set and metric."""
    methods = story.config.evaluation.methods
    images = story.scores.to_pandas().groupby("test_set")["image"].nunique().to_dict()
    columns = [
        Column(
            test_set,
            metric,
            has_paper=any(paper.score_of(test_set, method, metric) is not None for method in methods),
            calibrated=is_calibrated(metric, story.config.scoring),
        )
        for test_set in _in_order([item.name for item in story.config.test_sets], images)
        for metric in _in_order(story.config.scoring.metrics, story.scores["metric"].to_pylist())
    ]
    found = _scores_by_cell(story)
    by_column = [_column_cells(methods, column, found, images[column.test_set]) for column in columns]
    return Results(
        columns=columns,
        rows=[(method, [cells[i] for cells in by_column]) for i, method in enumerate(methods)],
        num_images={column.test_set: images[column.test_set] for column in columns},
        unscored=_unscored(story),
    )


def _column_cells(methods: Sequence[str], column: Column, found: CellScores, num_images: int) -> list[Cell]:
    scores = [found.get((method, column.test_set, column.metric), []) for method in methods]
    means = [mean_score(values)[0] for values in scores]
    # HR is what the others are measured against, and a mean over fewer images is no rival of one over all.
    most = max(map(len, scores))
    rival = [name != "hr" and len(values) == most for name, values in zip(methods, scores, strict=True)]
    best = best_of(column.metric, [mean if rival[i] else math.nan for i, mean in enumerate(means)])
    return [
        Cell(means[i], len(scores[i]), num_images, paper.score_of(column.test_set, method, column.metric), best[i])
        for i, method in enumerate(methods)
    ]


def best_of(metric: str, means: list[float]) -> list[bool]:
    """Which of these print as the best: equal digits are equally good. None, when fewer than two can be compared."""
    known = [mean for mean in means if not math.isnan(mean)]
    if len(known) < 2:
        return [False] * len(means)
    best = number(min(known) if metric_info(metric).lower_is_better else max(known))
    return [number(mean) == best for mean in means]


def per_image(story: Story) -> dict[tuple[str, str, str, str], float]:
    """Score by (method, test_set, image, metric)."""
    columns = [story.scores[name].to_pylist() for name in ("method", "test_set", "image", "metric", "value")]
    return {tuple(key): value for *key, value in zip(*columns, strict=True)}


def _scores_by_cell(story: Story) -> CellScores:
    known = story.scores.to_pandas().dropna(subset="value")
    return dict(known.groupby(["method", "test_set", "metric"])["value"].agg(list).items())


def _unscored(story: Story) -> list[str]:
    groups: dict[tuple[str, str], list[str]] = {}
    for row in story.scores.to_pylist():
        if row["value"] is None or math.isnan(row["value"]):
            reason = row["reason"] or "no reason recorded"
            groups.setdefault((row["metric"], reason), []).append(f"{row['test_set']}/{row['image']} ({row['method']})")
    return [
        f"{METRIC_LABELS.get(metric, metric)} is missing for {len(names)} image{'s' * (len(names) > 1)}, {reason}: "
        + ", ".join(names[:4])
        + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        for (metric, reason), names in groups.items()
    ]


def _in_order(wanted: Iterable[str], present: Iterable[str]) -> list[str]:
    """The present names: first in the order of `wanted`, then the others."""
    known = dict.fromkeys(present)
    return [name for name in dict.fromkeys([*wanted, *known]) if name in known]


def to_csv(table: Results) -> str:
    """One row per method. Full precision; empty where there is no score or no number in the paper."""
    rows = []
    for method, cells in table.rows:
        row: dict[str, Any] = {"method": method}
        for column, cell in zip(table.columns, cells, strict=True):
            name = column.name + " (calibrated here)" * column.calibrated
            row |= {name: cell.mean, f"{name} images": cell.num_scored}
            row |= {f"{name} paper": cell.paper} if column.has_paper else {}
        rows.append(row)
    return csv_of(rows)


def csv_of(rows: Sequence[Mapping[str, Any]], columns: list[str] | None = None) -> str:
    """CSV of rows at full precision; empty for None, NaN and what a row lacks. `columns`: None for the rows' own."""
    # Objects: a column of counts with an empty cell must not become floats.
    return pd.DataFrame(rows, columns=columns, dtype=object).to_csv(index=False, lineterminator="\n")


def to_markdown(table: Results) -> str:
    """The same table for a README: the best in bold, the number of images where some have no score."""
    lines = _lines(table, lambda text, best: f"**{text}**" if best else text)
    head, *body = [[_escape(text) for text in line] for line in lines]
    rows = [head, ["---"] + ["---:"] * (len(head) - 1), *body]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def to_text(table: Results) -> str:
    """The same table for a terminal: the best with an asterisk."""
    return terminal.aligned(_lines(table, lambda text, best: text + "* "[not best]))


def _lines(table: Results, mark: Callable[[str, bool], str]) -> list[list[str]]:
    heading = ["method"]
    for column in table.columns:
        heading += [f"{column.test_set} {column.label}"] + ["paper"] * column.has_paper
    lines = [heading]
    for method, cells in table.rows:
        line = [method]
        for column, cell in zip(table.columns, cells, strict=True):
            partial = f" ({cell.num_scored} of {cell.num_images})" if cell.partial else ""
            line += [mark(cell.text, cell.best) + partial] + [number(cell.paper)] * column.has_paper
        lines.append(line)
    return lines


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
