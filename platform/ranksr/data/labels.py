"""A rank dataset as one Ranker sees it. Scores are stored, labels are derived.

Which methods a Ranker compares, PI, the order, ties and gaps are computed here, when the dataset is read, so that one
rank dataset serves every Ranker that differs only in those.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ranksr import images, metrics
from ranksr.config import Config, RankerConfig


class Patches(Protocol):
    """The patches of a split of a rank dataset."""

    def stored(self, location: int, column: int) -> pa.Buffer:
        """One of a stored row, as a PNG or raw pixels (`images.decode`)."""


@dataclasses.dataclass(frozen=True)
class MappedPatches:
    """Patches in memory, or in a mapped file."""

    pngs: pa.ChunkedArray
    """list<binary>, in the order of the stored row."""

    def stored(self, location: int, column: int) -> pa.Buffer:
        return self.pngs[location].values[column].as_buffer()


@dataclasses.dataclass(frozen=True)
class Labels:
    """One split of a rank dataset as one Ranker sees it: L locations of M methods."""

    methods: tuple[str, ...]
    patches: Patches
    columns: tuple[int, ...]
    """Positions of the M methods in a stored row."""
    values: np.ndarray
    """(L, M) label metric, lower is better, NaN where a patch has no score."""
    min_gap: float
    places: pa.Table
    """image_id, y and x of every location."""
    hr_column: int
    """Position of the photograph's own patch in a stored row."""

    def patch(self, location: int, method: int) -> np.ndarray:
        """uint8 HWC RGB."""
        return images.decode(self.patches.stored(location, self.columns[method]))

    def hr(self, location: int) -> np.ndarray:
        """The photograph's own patch, uint8 HWC RGB, whether or not it is one of `methods`."""
        return images.decode(self.patches.stored(location, self.hr_column))

    def pairs(self, location: int) -> list[tuple[int, int]]:
        """Pairs of methods that carry information: both scored, and further apart than `min_gap`."""
        value = self.values[location]
        return [
            (first, second)
            for first, second in itertools.combinations(range(len(self.methods)), 2)
            if abs(value[first] - value[second]) > self.min_gap  # False for NaN
        ]


def derive_labels(table: pa.Table, ranker: RankerConfig, patches: Patches | None = None) -> Labels:
    """The labels that this Ranker learns, from the rows of one split of a rank dataset.

    `patches`: theirs, where `table` has none.
    """
    stored = table["methods"][0].as_py() if len(table) else [*ranker.methods, "hr"]
    columns = tuple(stored.index(name) for name in ranker.methods)
    raw = {name: raw_values(table, name, len(stored)) for name in metrics.made_of(ranker.metric)}
    values = label_values(ranker.metric, raw)[:, list(columns)]
    if ranker.target == "method" and len(table):
        # The label is the method: each location has the methods' mean scores instead of its own.
        values = np.where(np.isnan(values), np.nan, np.nanmean(values, axis=0))
    places = table.select(["image_id", "y", "x"])
    patches = patches or MappedPatches(table["pngs"])
    return Labels(ranker.methods, patches, columns, values, ranker.min_gap, places, stored.index("hr"))


def raw_values(table: pa.Table, metric: str, num_methods: int) -> np.ndarray:
    """(L, stored methods) scores as they are stored, NaN where there is none."""
    return pc.list_flatten(table[metric]).to_numpy().reshape(len(table), num_methods)


def label_values(metric: str, raw: Mapping[str, np.ndarray]) -> np.ndarray:
    """Scores under the label metric, turned so that lower is better, of those stored for it (`metrics.made_of`)."""
    scores = [metrics.as_lower_better(name, raw[name]) for name in metrics.made_of(metric)]
    return np.sum(scores, axis=0) / len(scores)  # PI of the PIRM 2018 challenge: the mean of NIQE and 10 - Ma


def raw_metrics(config: Config, rank_dataset: str) -> tuple[str, ...]:
    """The metrics stored in a rank dataset. PI is derived from NIQE and Ma, never stored."""
    names = ["niqe"]
    if config.scoring.ma_model is not None:
        names.append("ma")
    learned = [config.rankers[name].metric for name in config.learners_of(rank_dataset)]
    for metric in (*learned, config.gap_metric(rank_dataset)):
        if metric and metric.startswith("pyiqa:"):
            names.append(metric)
    return tuple(dict.fromkeys(names))
