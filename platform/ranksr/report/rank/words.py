"""Statistics of a rank dataset as text and aligned tables for a terminal, or as JSON."""

import dataclasses

from ranksr import storage, terminal
from ranksr.metrics import metric_info
from ranksr.report import tables
from ranksr.report.rank.statistics import Bounds, Pair, Statistics

BLOCKS = " ▁▂▃▄▅▆▇█"


def rank_dataset_json(found: Statistics) -> str:
    """Every number as one JSON object; null where nothing has a score."""
    values = dataclasses.asdict(found)
    for flip in values["flips"]:
        del flip["pngs"]
    return storage.to_json(values, indent=2)


def rank_dataset_text(found: Statistics, folder: str) -> str:
    """The same for a terminal, most important first."""
    every = found.splits["all"]
    state = "" if found.done else " so far: the stage is UNFINISHED, at work or to be continued by full_pipeline"
    sections = {
        f"{folder}: {every.num_locations} locations of {found.num_images} images "
        f"({found.num_rejected} rejected){state}": terminal.aligned(split_rows(found)),
        "Filters": terminal.aligned(filter_rows(found)),
        f"Mean {label_name(found.metric)}, lower is better": terminal.aligned(mean_rows(found)),
        f"Upper bounds by {label_name(found.metric)} (Eq. 10): one fixed method (MC), the better one at each location "
        "(MR)": terminal.aligned(bound_rows(found)),
        "Pairs": terminal.aligned(pair_rows(found)),
        "Scores, locations in bins": "\n".join(_histograms(found, metric) for metric in found.edges),
        "Where the order flips": terminal.aligned(_flips(found)) if found.flips else "nowhere\n",
    }
    return "\n".join(f"{title}\n{text}" for title, text in sections.items()).rstrip()


def label_name(metric: str) -> str:
    """Name of the label values: a metric where higher is better is turned, e.g. `10 - Ma`."""
    info, name = metric_info(metric), tables.METRIC_LABELS.get(metric, metric)
    return name if info.lower_is_better else f"{info.best:g} - {name}"


def filter_rows(found: Statistics) -> list[list[str]]:
    """Locations of the grid, those that each filter took, those that are left."""
    heading = ["filter", "locations"]
    counts = [[name.replace("_", " "), str(count)] for name, count in found.counts.items()]
    return [heading, *counts, ["kept", str(found.splits["all"].num_locations)]]


def pair_rows(found: Statistics, split: str = "all") -> list[list[str]]:
    """A heading and a line for every pair of stored methods."""
    heading = ["first, second", "first wins", "second wins", "ties", "unscored"]
    pairs = [_pair_row(pair) for pair in found.splits[split].pairs]
    return [[*heading, "mean gap", "median gap", "UB_MC", "UB_MR"], *pairs]


def _pair_row(pair: Pair) -> list[str]:
    scored = pair.first_wins + pair.second_wins + pair.ties
    wins = [f"{count} ({count / max(scored, 1):.1%})" for count in (pair.first_wins, pair.second_wins)]
    gaps = [pair.mean_gap, pair.median_gap, pair.bounds.ub_mc, pair.bounds.ub_mr]
    return [f"{pair.first}, {pair.second}", *wins, str(pair.ties), str(pair.unscored), *map(tables.number, gaps)]


def bound_rows(found: Statistics) -> list[list[str]]:
    """A heading and a line for every split and group of methods."""
    lines = [["split, methods", "locations", "best method", "UB_MC", "UB_MR", "gain"]]
    for name, split in found.splits.items():
        lines += [[f"{name}: {', '.join(bound.means)}", *_bound_row(bound)] for bound in split.bounds]
    return lines


def _bound_row(bound: Bounds) -> list[str]:
    gain = None if bound.ub_mc is None or bound.ub_mr is None else bound.ub_mc - bound.ub_mr
    numbers = map(tables.number, (bound.ub_mc, bound.ub_mr, gain))
    return [str(bound.num_locations), bound.best or tables.NOTHING, *numbers]


def split_rows(found: Statistics) -> list[list[str]]:
    splits = [[name, str(split.num_locations), str(split.num_images)] for name, split in found.splits.items()]
    return [["split", "locations", "images"], *splits]


def mean_rows(found: Statistics) -> list[list[str]]:
    """A heading and a line for every stored method, the label metric's mean in each split."""
    lines = [["method", *found.splits, "unscored"]]
    for name in found.methods:
        means = [tables.number(split.means[name]) for split in found.splits.values()]
        lines.append([name + " (compared)" * (name in found.compared), *means, str(found.splits["all"].unscored[name])])
    return lines


def _histograms(found: Statistics, metric: str) -> str:
    """One line of blocks for every method, between the same two scores; taller is more."""
    bins, edges = found.splits["all"].histograms[metric], found.edges[metric]
    most = max(max(counts) for counts in bins.values())
    low, high = tables.number(edges[0]), tables.number(edges[-1])
    lines = [[tables.METRIC_LABELS.get(metric, metric), low.ljust(len(edges) - 1 - len(high)) + high]]
    for name, counts in bins.items():
        lines.append([name, "".join(BLOCKS[-(-count * (len(BLOCKS) - 1) // most)] for count in counts)])
    return terminal.aligned([["", " " * (len(edges) - 1)], *lines]).lstrip("\n")


def _flips(found: Statistics) -> list[list[str]]:
    lines = [["image", "y", "x", "split", "usually better", "score", "better here", "score", "file", "row"]]
    for flip in found.flips:
        sides = [text for name in (flip.usual, flip.winner) for text in (name, tables.number(flip.scores[name]))]
        lines.append([flip.image_id, str(flip.y), str(flip.x), flip.split, *sides, flip.file, str(flip.row)])
    return lines
