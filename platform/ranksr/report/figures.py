"""Curves, bars and histograms as inline SVG that takes its text colour from the page, so that it suits light and dark.

Only Figure objects, no pyplot: nothing global changes, and no window system is asked for.
"""

import functools
import io
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter

from ranksr.report import paper
from ranksr.report.rank.statistics import Bounds, Statistics, bin_edges, histogram
from ranksr.report.rank.words import label_name
from ranksr.report.tables import labelled, number

INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito: told apart by colour-blind readers, and seen on white and on black."""
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (2, 1)))
"""Line styles, so that no line is told by its colour alone."""
NOT_CURVES = frozenset({"step", "split", "learning_rate"})
LOSS = "loss, weighted"
TERMS = ("pixel", "perceptual", "adversarial", "rank content", "discriminator", "D(HR)", "D(SR)")
DIAGNOSTICS = {
    "d_real": ("probability of being real", "D(HR)"),
    "d_fake": ("probability of being real", "D(SR)"),
    "pair_error": ("pairs in wrong order", "pairs in wrong order"),
}
"""Logged values beside the losses: panel and line of each."""
NUM_GROUPS, SMALLEST_GROUP = 10, 5
"""Dots of a line of group means, and the locations that each needs."""
FIGURE_6 = ("srgan", "ranksrgan")
"""The methods whose convergence the paper compares in its Figure 6."""

STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#80808055",
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
}

Row = Mapping[str, Any]
Lines = dict[str, np.ndarray]
"""Label to (n, 2) of step and value."""


def training(stage: str, rows: Sequence[Row]) -> Markup | None:
    """One training stage over its steps: loss terms, DIAGNOSTICS, and a panel for every validation metric.

    None when no finite value was logged.
    """
    panels: dict[str, Lines] = {}
    for tag, points in logged(rows, "train").items():
        panel, label = DIAGNOSTICS.get(tag, (LOSS, tag.replace("_", " ")))
        panels.setdefault(panel, {})[label] = points
    for tag, points in logged(rows, "val").items():
        panels[f"{labelled(tag).replace('_', ' ')} (validation)"] = {stage: points}
    return _figure(f"Training of {stage}", panels) if panels else None


def convergence(curves: Mapping[str, Sequence[Row]]) -> Markup | None:
    """NIQE and PSNR of SRGAN and RankSRGAN on the validation patches against steps: the paper's Figure 6."""
    series = {stage: logged(curves[stage], "val") for stage in FIGURE_6 if stage in curves}
    panels = {}
    for metric in ("niqe", "psnr"):
        lines = {stage: found[metric] for stage, found in series.items() if metric in found}
        if len(lines) == len(FIGURE_6):
            panels[f"{labelled(metric)} (validation)"] = lines
    return _figure("Convergence of SRGAN and RankSRGAN", panels) if panels else None


def upper_bounds(found: Statistics) -> Markup | None:
    """Mean label metric of each method, UB_MC and UB_MR over all locations: the paper's Figure 3."""
    groups = [each for each in found.splits["all"].bounds if each.ub_mr is not None]
    name = label_name(found.metric)
    draw = [functools.partial(_draw_bounds, bounds=each, methods=found.methods, name=name) for each in groups]
    return side_by_side("Upper bounds", f"Upper bounds of ranking by {name}", draw) if draw else None


def _draw_bounds(axes: Axes, bounds: Bounds, methods: Sequence[str], name: str) -> None:
    bars: dict[str, Any] = {**bounds.means, "UB_MC": bounds.ub_mc, "UB_MR": bounds.ub_mr}
    colours = [*(PALETTE[methods.index(each) % len(PALETTE)] for each in bounds.means), "#808080", INK]
    drawn = axes.barh(list(bars), list(bars.values()), color=colours, height=0.7)
    axes.bar_label(drawn, [number(value) for value in bars.values()], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"mean {name}, lower is better")


def score_histograms(found: Statistics) -> Markup | None:
    """Distribution of each method's scores, a panel for each metric."""
    bins, methods = found.splits["all"].histograms, found.methods
    draw = [
        functools.partial(_draw_histograms, bins=bins[name], edges=edges, name=labelled(name), methods=methods)
        for name, edges in found.edges.items()
    ]
    return side_by_side("Histograms", f"Histograms of {', '.join(map(labelled, found.edges))}", draw) if draw else None


def _draw_histograms(
    axes: Axes, bins: Mapping[str, Sequence[int]], edges: Sequence[float], name: str, methods: Sequence[str]
) -> None:
    for method, counts in bins.items():
        axes.stairs(np.array(counts) / max(sum(counts), 1), edges, label=method, **_style(method, methods))
    axes.set_xlabel(name)
    axes.set_ylabel("share of locations")
    legend(axes)


def _style(method: str, methods: Sequence[str]) -> dict[str, Any]:
    """The look of a method, the same in every figure of a run's rank dataset, which stores `methods`."""
    i = methods.index(method)
    return {"color": PALETTE[i % len(PALETTE)], "linestyle": DASHES[i % len(DASHES)], "linewidth": 1.4}


def legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, handlelength=2.4)


def ranker_scores(table: pa.Table, stored: Sequence[str], metric: str) -> Markup:
    """Histograms of the Ranker's scores of each method, and how they follow the label metric inside a location.

    `table` is as `RankerStory.scores` says, with one row or more; `stored`: the methods of the rank dataset.
    """
    values, scores = (np.array(table[name].to_pylist(), float) for name in ("values", "scores"))
    names = table["methods"][0].as_py()
    edges = bin_edges(scores)
    bins = {name: histogram(scores[:, i], edges) for i, name in enumerate(names)}
    scored = ~np.isnan(values).any(axis=1)
    # Learning from pairs leaves the level of a location's scores open: only their differences can be right or wrong.
    values, scores = (of[scored] - of[scored].mean(axis=1, keepdims=True) for of in (values, scores))
    means = {name: _group_means(values[:, i], scores[:, i]) for i, name in enumerate(names)}
    draw = [
        functools.partial(_draw_histograms, bins=bins, edges=edges.tolist(), name="score", methods=stored),
        functools.partial(_draw_means, means=means, name=label_name(metric), methods=stored),
    ]
    return side_by_side("Ranker", "Scores of the Ranker: histograms, and how they follow the metric", draw)


def _group_means(values: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(groups, 2) mean value and mean score of groups of about equal size, sorted by value."""
    groups = np.array_split(np.argsort(values, kind="stable"), min(NUM_GROUPS, len(values) // SMALLEST_GROUP) or 1)
    return np.array([(values[group].mean(), scores[group].mean()) for group in groups if len(group)]).reshape(-1, 2)


def _draw_means(axes: Axes, means: Mapping[str, np.ndarray], name: str, methods: Sequence[str]) -> None:
    for method, points in means.items():
        axes.plot(*points.T, marker="o", label=method, **_style(method, methods))
    axes.set_xlabel(f"{name}, minus the location’s mean")
    axes.set_ylabel("score, minus the location’s mean")
    legend(axes)


def overlaid(curves: Mapping[str, Sequence[Row]]) -> Markup | None:
    """Validation NIQE and PSNR of many trainings, a line for each; None without any."""
    series = {name: logged(rows, "val") for name, rows in curves.items()}
    metrics = [metric for metric in ("niqe", "psnr") if any(metric in found for found in series.values())]
    draw = [
        functools.partial(_draw_overlaid, series=series, metric=metric, last=metric == metrics[-1])
        for metric in metrics
    ]
    return side_by_side("Validation", f"Validation of {', '.join(series)}", draw) if draw else None


def _draw_overlaid(axes: Axes, series: Mapping[str, Lines], metric: str, last: bool) -> None:
    for (name, found), (dash, colour) in zip(series.items(), itertools.cycle(itertools.product(DASHES, PALETTE))):
        axes.plot(*found.get(metric, np.empty((0, 2))).T, label=name, color=colour, linestyle=dash)
    axes.set_xlabel("step")
    axes.set_ylabel(f"{labelled(metric)} (validation)")
    if last:
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, ncols=-(-len(series) // 12))


def _figure(title: str, panels: Mapping[str, Lines]) -> Markup:
    """Curves against steps; the name of a panel is the label of its y axis."""
    draw = [functools.partial(_draw_panel, name=name, lines=lines) for name, lines in panels.items()]
    return side_by_side(title, f"{title} against steps: {', '.join(panels)}", draw)


def side_by_side(title: str, description: str, draw: Sequence[Callable[[Axes], None]]) -> Markup:
    """Panels side by side, at most four in a row."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": title}):
        num_columns = min(len(draw), 4)
        num_rows = -(-len(draw) // num_columns)
        figure = Figure(figsize=(3.4 * num_columns, 2.9 * num_rows), layout="constrained")
        engine = figure.get_layout_engine()
        assert isinstance(engine, ConstrainedLayoutEngine)
        engine.set(w_pad=0.12)
        every = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
        for axes, draw_panel in zip(every, draw, strict=False):
            draw_panel(axes)
        for axes in every[len(draw) :]:
            axes.remove()
        return _svg(figure, description)


def _draw_panel(axes: Axes, name: str, lines: Lines) -> None:
    for i, (label, points) in enumerate(sorted(lines.items(), key=lambda line: _place(line[0]))):
        style = _place(label) if name == LOSS and label in TERMS else i
        _draw(
            axes,
            points,
            marker="o" if len(points) <= 40 else None,
            label=label,
            color=PALETTE[style % len(PALETTE)],
            linestyle=DASHES[style % len(DASHES)],
        )
    if name.startswith("srocc"):
        axes.axhline(paper.RANKER_SROCC, color=INK, linestyle=":", linewidth=1, label=f"paper: {paper.RANKER_SROCC}")
    values = np.concatenate([points[:, 1] for points in lines.values()])
    if name == LOSS and values.min() > 0 and values.max() > 30 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("step")
    axes.set_ylabel(name)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if name == LOSS or len(axes.get_lines()) > 1:
        legend(axes)


def _place(label: str) -> int:
    """Index of a line's colour, so that a loss term looks the same in every stage."""
    return TERMS.index(label) if label in TERMS else len(TERMS)


def _draw(axes: Axes, points: np.ndarray, marker: str | None, **style: Any) -> None:
    steps, values = points.T
    window = len(values) // 40
    if window >= 3:  # many noisy values: a thin line as logged, a thick line as running mean
        axes.plot(steps, values, color=style["color"], linewidth=0.5, alpha=0.35)
        values = np.convolve(values, np.ones(window) / window, "valid")
        steps = steps[(window - 1) // 2 :][: len(values)]
    axes.plot(steps, values, marker=marker, **style)


def logged(rows: Sequence[Row], split: str) -> Lines:
    """Logged values of `split` by tag, (N, 2) of step and value, without NaN and infinity."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for tag, value in row.items():
            if row["split"] == split and tag not in NOT_CURVES and math.isfinite(value):
                found.setdefault(tag, []).append((row["step"], value))
    return {tag: np.array(sorted(points), dtype=float) for tag, points in found.items()}


def _svg(figure: Figure, description: str) -> Markup:
    """The figure as an SVG element for HTML: text stays text, colours follow the page, nothing refers outside."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Type", "Format", "Creator")))
    body = out.getvalue()
    body = body[body.index("<svg") :]
    body = re.sub(r'\s+xmlns(:xlink)?="[^"]*"', "", body).replace(INK, "currentColor")
    # Several figures share a page: only ids that are referred to, which are salted hashes, may stay.
    used = set(re.findall(r"#([\w-]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", body)
    label = Markup('<svg role="img" aria-label="{}"').format(description)
    return Markup(body.replace("<svg", label, 1))  # matplotlib has escaped the texts in it
