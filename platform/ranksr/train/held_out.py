"""A Ranker on held-out locations: its scores, their rank correlation and pair accuracy (paper 4.1)."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from ranksr import images, metrics
from ranksr.data.labels import Labels
from ranksr.data.prefetch import prefetch
from ranksr.train.world import World

Row = dict[str, Any]

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("y", pa.int32()),
        ("x", pa.int32()),
        ("methods", pa.list_(pa.string())),
        ("values", pa.list_(pa.float64())),
        ("scores", pa.list_(pa.float64())),
    ]
)
"""One row is one location: its methods, their label metric and the Ranker's scores, both lower is better."""


@torch.no_grad()
def score_locations(ranker: nn.Module, labels: Labels, locations: Sequence[int], world: World) -> list[Row]:
    """Rows of SCHEMA. `ranker` is in eval mode and called without compilation, since sizes vary.

    The loader threads decode the patches of a few locations ahead.
    """

    def read(location: int) -> torch.Tensor:
        patches = [images.to_tensor(labels.patch(location, method)) for method in range(len(labels.methods))]
        return torch.stack(patches)

    rows, ahead = [], prefetch(read, locations, world.compute.loader_threads)
    for location, patches in zip(locations, ahead, strict=True):
        scores = ranker.forward(patches.to(world.device)).double().cpu().tolist()
        place = labels.places.slice(location, 1).to_pylist()[0]
        rows.append(
            {**place, "methods": list(labels.methods), "values": labels.values[location].tolist(), "scores": scores}
        )
    return rows


def summarise(rows: Sequence[Row], min_gap: float) -> dict[str, Any]:
    """SROCC and score distance; pair accuracy overall, by pair of methods, and by quarter of the pairs' gaps.

    srocc: mean over locations of Spearman's correlation of label and score. Pairs are those of one location whose
    values differ by more than `min_gap`. score_distance: E|SR1 - SR2| (Table 5). `..._of`: by pair of methods.
    NaN where nothing can be compared.
    """
    sroccs = [location_srocc(row) for row in rows]
    pairs = [pair for row in rows for pair in _pairs(row, min_gap)]
    names = [name for name, *_ in pairs]
    gaps, distances, right = (np.array([pair[at] for pair in pairs], float) for at in (1, 2, 3))
    of = {name: np.array([other == name for other in names]) for name in sorted(set(names))}
    quarters = np.searchsorted(np.quantile(gaps, (0.25, 0.5, 0.75)), gaps) if len(gaps) else gaps
    return {
        "locations": len(rows),
        "num_pairs": len(pairs),
        "srocc": _mean([value for value in sroccs if not np.isnan(value)]),
        "pair_accuracy": _mean(right),
        "score_distance": _mean(distances),
        "num_pairs_of": {name: int(mask.sum()) for name, mask in of.items()},
        "pair_accuracy_of": {name: _mean(right[mask]) for name, mask in of.items()},
        "score_distance_of": {name: _mean(distances[mask]) for name, mask in of.items()},
        "pair_accuracy_by_gap": [
            {"largest_gap": float(gaps[mask].max()), "num_pairs": int(mask.sum()), "pair_accuracy": _mean(right[mask])}
            for mask in (quarters == quarter for quarter in range(4))
            if mask.any()
        ],
    }


def location_srocc(row: Row) -> float:
    """Spearman's correlation of one location; NaN where fewer than two methods have a score."""
    values, scores = np.array(row["values"], float), np.array(row["scores"], float)
    scored = ~np.isnan(values)
    return metrics.spearman(values[scored], scores[scored])


def _pairs(row: Row, min_gap: float) -> Iterator[tuple[str, float, float, bool]]:
    """Names, gap of the values, distance of the scores, and whether these are in the right order."""
    for first, second in itertools.combinations(range(len(row["methods"])), 2):
        gap, distance = (row[key][first] - row[key][second] for key in ("values", "scores"))
        if abs(gap) > min_gap:  # False for NaN
            yield f"{row['methods'][first]}, {row['methods'][second]}", abs(gap), abs(distance), gap * distance > 0


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
