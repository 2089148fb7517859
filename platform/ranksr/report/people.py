"""What people said of a run's pictures: the figures and tables of a user study (paper, section 4.5)."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from ranksr import storage
from ranksr.report.figures import INK, PALETTE, legend, side_by_side
from ranksr.report.tables import NOTHING, labelled

STUDIES, RESULTS = "studies", "results.json"
"""Folder of a run with what `ranksr study results` found: studies/NAME/results.json."""
Group = Mapping[str, Any]
"""Results of all participants, or of the attentive ones, as `study.votes.Results` holds them."""


def read_studies(run: str) -> dict[str, dict[str, Any]]:
    """Name of a study of the run to its results.json."""
    folder = storage.join(run, STUDIES)
    paths = [path for path, _ in storage.list_files(folder) if path.endswith(f"/{RESULTS}") and path.count("/") == 1]
    return {path.partition("/")[0]: storage.read_json(storage.join(folder, path)) for path in paths}


def pair_votes(group: Group) -> Markup | None:
    """Share of the votes of each pair of methods, with its interval: the paper's Figure 7."""
    shares = group["shares"]
    if not shares:
        return None
    return side_by_side(
        "Votes", "Share of the votes for each of two methods", [functools.partial(_draw_votes, shares=shares)]
    )


def _draw_votes(axes: Axes, shares: Sequence[Mapping[str, Any]]) -> None:
    names = [f"{share['method']} : {share['rival']}" for share in shares]
    wins = [100 * share["share"]["value"] for share in shares]
    axes.barh(names, wins, color=PALETTE[0], height=0.55)
    axes.barh(names, [100 - value for value in wins], left=wins, color=PALETTE[4], height=0.55)
    for at, share in enumerate(shares):
        if share["share"]["low"] is not None:
            axes.plot([100 * share["share"][end] for end in ("low", "high")], [at, at], color=INK, linewidth=1.6)
        axes.text(2, at, f"{wins[at]:.0f} %", va="center", color="white")
    axes.axvline(50, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xlim(0, 100)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("votes, %; blue: the first")


def rank_shares(group: Group) -> Markup | None:
    """Share of each rank by method: the paper's Figure 8."""
    ranks = group["ranks"]
    if not ranks:
        return None
    return side_by_side("Ranks", "Share of each rank by method", [functools.partial(_draw_ranks, ranks=ranks)])


def _draw_ranks(axes: Axes, ranks: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    names = sorted(ranks, key=lambda name: -ranks[name][0]["value"])
    left = [0.0] * len(names)
    for rank in range(len(names)):
        values = [100 * ranks[name][rank]["value"] for name in names]
        axes.barh(names, values, left=left, color=PALETTE[rank % len(PALETTE)], height=0.6, label=f"rank {rank + 1}")
        left = [before + value for before, value in zip(left, values, strict=True)]
    axes.set_xlim(0, 100)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("rankings, %")
    legend(axes)


def interval(estimate: Mapping[str, Any], factor: float = 1, digits: int = 2) -> str:
    """E.g. `0.62 (0.55 to 0.68)`; a dash for what is not to be had."""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None:
        return NOTHING
    text = f"{factor * value:.{digits}f}"
    return text if low is None else f"{text} ({factor * low:.{digits}f} to {factor * high:.{digits}f})"


def metric_label(metric: str) -> str:
    return f"Ranker {metric.partition(':')[2]}" if ":" in metric else labelled(metric)
