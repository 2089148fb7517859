"""Pictures of an ablation: its trials' convergence (Figure 6), Figure 4, and what one number does to the scores."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ranksr.metrics import mean_score
from ranksr.report import intervals, tables
from ranksr.report.ablation.records import Ablation, AllScores, Record, Trial
from ranksr.report.figures import DASHES, PALETTE, legend, logged, side_by_side

METRICS = ("niqe", "psnr")
"""The metrics of the paper's Figures 4 and 6."""
TARGET = "ranker.target"
REFERENCES = ("srgan", "esrgan")
"""Beside which Figure 4 shows RankSRGAN."""
WIDE_RANGE = 30
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""
LEGEND_ROWS = 14


def convergence(ablation: Ablation) -> Markup | None:
    """Validation NIQE and PSNR of every trial against steps, as the paper's Figure 6; None without curves."""
    curves = {
        metric: {
            trial.name: [(each, points[metric]) for each, points in _curves(trial) if metric in points]
            for trial in ablation.trials
        }
        for metric in METRICS
    }
    curves = {metric: lines for metric, lines in curves.items() if any(lines.values())}
    draw: list[Callable[[Axes], None]] = [
        functools.partial(_draw_curves, lines=lines, metric=metric, last=metric == list(curves)[-1])
        for metric, lines in curves.items()
    ]
    title = f"Convergence of the trials of {ablation.name}"
    return side_by_side(title, f"{title}: validation {', '.join(map(tables.labelled, curves))}", draw) if draw else None


def _curves(trial: Trial) -> list[tuple[Record, dict[str, np.ndarray]]]:
    return [(each, logged(each.curve, "val")) for each in trial.seeds]


def _draw_curves(axes: Axes, lines: Mapping[str, Sequence[tuple[Record, np.ndarray]]], metric: str, last: bool) -> None:
    """A thin line a seed, a thick one for their mean where every seed has a value."""
    for i, (name, seeds) in enumerate(lines.items()):
        style: dict[str, Any] = {
            "color": PALETTE[i % len(PALETTE)],
            "linestyle": DASHES[(i + i // len(PALETTE)) % len(DASHES)],
        }
        for each, points in seeds:
            if len(seeds) > 1:
                axes.plot(*points.T, color=style["color"], linewidth=0.5, alpha=0.5)
            if each.state == "stopped":
                axes.plot(*points[-1], marker="X", markersize=6, color=style["color"], linestyle="none")
        steps = functools.reduce(np.intersect1d, [points[:, 0] for _, points in seeds]) if seeds else np.array([])
        values = [points[np.isin(points[:, 0], steps), 1] for _, points in seeds]
        mean = np.mean(values, axis=0) if seeds else steps
        axes.plot(steps, mean, label=name, marker="o" if len(steps) == 1 else None, **style)
    axes.set_xlabel("step")
    axes.set_ylabel(f"{tables.labelled(metric)} (validation)")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if last:  # beside the last panel: many trials need room
        columns = -(-len(lines) // LEGEND_ROWS)
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, handlelength=2.6, ncols=columns)


def targets(ablation: Ablation, references: Mapping[str, AllScores]) -> Markup | None:
    """NIQE of RankSRGAN by what its Ranker learned, beside SRGAN and ESRGAN: the paper's Figure 4.

    None unless `ranker.target` is varied. `references`: scores of the run's methods.
    """
    scored = {trial.name: trial.scores for trial in ablation.trials if trial.scores}
    test_sets = dict.fromkeys(test_set for scores in scored.values() for test_set, metric in scores if metric == "niqe")
    if TARGET not in ablation.varied or not test_sets:
        return None
    every = scored | {name: references[name] for name in REFERENCES if name in references}
    draw = [
        functools.partial(_draw_targets, scores=every, test_set=test_set, own=len(scored)) for test_set in test_sets
    ]
    return side_by_side(f"Targets of {ablation.name}", f"NIQE on {', '.join(test_sets)} by the Ranker’s target", draw)


def _draw_targets(axes: Axes, scores: Mapping[str, AllScores], test_set: str, own: int) -> None:
    """A dot for each of the first `own`, with its interval; a dashed line for each of the others."""
    found = [(name, intervals.over_seeds(of.get((test_set, "niqe"), pd.DataFrame()))) for name, of in scores.items()]
    for i, (_, value) in enumerate(found[:own]):
        half_width = value.half_width if value.known else 0
        axes.errorbar(value.mean, i, xerr=half_width, fmt="o", markersize=6, capsize=4, color=PALETTE[0])
        axes.annotate(tables.number(value.mean), (value.mean, i), (0, 8), textcoords="offset points", ha="center")
    for i, (name, value) in enumerate(found[own:], 1):
        axes.axvline(value.mean, color=PALETTE[i], linestyle=DASHES[i], label=f"{name} {tables.number(value.mean)}")
    axes.set_yticks(range(own), [name for name, _ in found[:own]])
    axes.set_ylim(own - 0.5, -0.5)
    axes.margins(x=0.15)
    axes.set_xlabel(f"NIQE on {test_set}, lower is better")
    if len(found) > own:
        legend(axes)


def sweep(ablation: Ablation) -> Markup | None:
    """Validation and final scores against the one number that is varied; None where it is not one number."""
    key = ablation.varied[0] if len(ablation.varied) == 1 else None
    values: list[Any] = [trial.settings.get(key or "") for trial in ablation.trials]
    if key is None or not all(type(value) in (int, float) for value in values) or len(set(values)) < 2:
        return None
    panels: dict[str, list[tuple[float, float, bool]]] = {}
    for value, trial in zip(values, ablation.trials, strict=True):
        for each in trial.seeds:
            for metric in METRICS:
                if metric in each.validation:
                    points = panels.setdefault(f"{tables.labelled(metric)} (validation)", [])
                    points.append((value, each.validation[metric], each.state == "done"))
    for trial, value in zip(ablation.trials, values, strict=True):
        for (test_set, metric), scores in trial.scores.items():
            if metric in METRICS:
                points = panels.setdefault(f"{tables.labelled(metric)} on {test_set}", [])
                points += [(value, mean_score(scores[seed])[0], True) for seed in scores]
    panels = {name: [point for point in points if np.isfinite(point[1])] for name, points in panels.items()}
    draw = [
        functools.partial(_draw_sweep, points=np.array(sorted(points)), places=np.array(values), key=key, name=name)
        for name, points in panels.items()
        if points
    ]
    return (
        side_by_side(f"Sweep of {ablation.name}", f"Scores against {key}: {', '.join(panels)}", draw) if draw else None
    )


def _draw_sweep(axes: Axes, points: np.ndarray, places: np.ndarray, key: str, name: str) -> None:
    """A dot a seed, open where it was not trained to the end; a line through the means of those that were.

    `points` are (place, score, trained to the end), `places` all values of the key, which decide the scale.
    """
    done = points[points[:, 2] == 1]
    trained = np.unique(done[:, 0])
    axes.plot(trained, [done[done[:, 0] == place, 1].mean() for place in trained], color=PALETTE[0])
    axes.plot(*done[:, :2].T, "o", color=PALETTE[0], label="trained to the end")
    stopped = points[points[:, 2] == 0]
    if len(stopped):
        axes.plot(*stopped[:, :2].T, "o", color=PALETTE[1], markerfacecolor="none", label="not to the end")
        legend(axes)
    positive = places[places > 0]
    if len(positive) and positive.max() > WIDE_RANGE * positive.min():
        if len(positive) == len(places):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:  # 0 has a place too
            axes.set_xscale("symlog", linthresh=positive.min())
    axes.set_xlabel(key)
    axes.set_ylabel(name)
