"""Accuracy of a trained Ranker on held-out photographs, in words and rows."""

import math
from typing import Any

import pyarrow as pa

from ranksr.config import RankerConfig
from ranksr.report import paper, tables
from ranksr.report.rank.words import label_name
from ranksr.train import held_out

DISTANCE = "E|SR1 − SR2|"


def summarise(scores: pa.Table, ranker: RankerConfig) -> dict[str, Any]:
    """`held_out.summarise` of the validation locations, and `images`, how many photographs they are cut from."""
    rows = scores.to_pylist()
    return {**held_out.summarise(rows, ranker.min_gap), "images": len({row["image_id"] for row in rows})}


def task(ranker: RankerConfig) -> str:
    """The Ranker's task, as a sentence."""
    methods, label = ", ".join(ranker.methods), label_name(ranker.metric)
    learned = {
        "rank": f"the order of {methods} by {label} at each location",
        "regression": f"the {label} of patches by {methods}",
        "method": f"one fixed order of {methods}, by their mean {label}",
    }
    return f"The Ranker learned {learned[ranker.target]}; its score is lower where it expects better."


def summary_rows(found: dict[str, Any], ranker: RankerConfig) -> list[list[str]]:
    """A heading and a line for each measure, the paper's number beside it where that is of the same."""
    lines = [
        ["measure", "here", "paper"],
        ["SROCC", _decimals(found["srocc"]), printed(paper.ranker_srocc(ranker))],
        ["pair accuracy", _percent(found["pair_accuracy"]), tables.NOTHING],
        [f"{DISTANCE}, all pairs", _decimals(found["score_distance"]), tables.NOTHING],
    ]
    for name, distance in found["score_distance_of"].items():
        if set(name.split(", ")) == paper.TABLE_5_METHODS:
            lines.append([f"{DISTANCE}, {name}", _decimals(distance), printed(paper.score_distance(ranker))])
    counts = {"locations": "locations", "photographs": "images", "pairs": "num_pairs"}
    return lines + [[name, str(found[key]), tables.NOTHING] for name, key in counts.items()]


def pair_rows(found: dict[str, Any]) -> list[list[str]]:
    """A heading and a line for each pair of methods."""
    return [["first, second", "pairs", "pair accuracy", DISTANCE]] + [
        [name, str(count), _percent(found["pair_accuracy_of"][name]), _decimals(found["score_distance_of"][name])]
        for name, count in found["num_pairs_of"].items()
    ]


def gap_rows(found: dict[str, Any]) -> list[list[str]]:
    """A heading and a line for each quarter of the pairs, the smallest differences first."""
    return [["difference up to", "pairs", "pair accuracy"]] + [
        [tables.number(part["largest_gap"]), str(part["num_pairs"]), _percent(part["pair_accuracy"])]
        for part in found["pair_accuracy_by_gap"]
    ]


def _decimals(value: float) -> str:
    return tables.NOTHING if math.isnan(value) else f"{value:.3f}"


def _percent(value: float) -> str:
    return tables.NOTHING if math.isnan(value) else f"{value:.1%}"


def printed(value: float | None) -> str:
    """A number of the paper, as it prints it."""
    return tables.NOTHING if value is None else str(value)
