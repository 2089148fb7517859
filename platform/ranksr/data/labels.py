"""A rank dataset as one Ranker sees it. Scores are stored, labels are derived.

Which methods a Ranker compares, PI, the order, ties and gaps are computed here, when the dataset is read, so that one
rank dataset serves every Ranker that differs only in those.
"""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from ranksr import images, metrics, storage
from ranksr.config import RankerConfig


@dataclasses.dataclass(frozen=True)
class Labels:
    """One split of a rank dataset as one Ranker sees it: L locations of M methods."""

    methods: tuple[str, ...]
    pngs: pa.ChunkedArray
    """list<binary>, the patches in the order of the stored row."""
    columns: tuple[int, ...]
    """Where the M methods stand in a stored row."""
    values: np.ndarray
    """(L, M) label metric, lower is better, NaN where a patch has no score."""
    min_gap: float

    def patch(self, location: int, method: int) -> np.ndarray:
        """uint8 HWC RGB."""
        return images.decode(self.pngs[location][self.columns[method]].as_py())

    def pairs(self, location: int) -> list[tuple[int, int]]:
        """Pairs of methods that carry information: both scored, and further apart than `min_gap`."""
        value = self.values[location]
        return [
            (first, second)
            for first, second in itertools.combinations(range(len(self.methods)), 2)
            if abs(value[first] - value[second]) > self.min_gap  # False for NaN
        ]


def read_labels(folder: str, ranker: RankerConfig, split: str) -> Labels:
    """Read the train or val split and derive what this Ranker is to learn."""
    table = storage.read_table(folder)
    table = table.filter(pa.compute.equal(table["split"], split))
    stored = table["methods"][0].as_py() if len(table) else list(ranker.methods)
    columns = tuple(stored.index(name) for name in ranker.methods)
    values = label_values(ranker.metric, lambda name: np.array(table[name].to_pylist(), float).reshape(len(table), -1))
    values = values[:, list(columns)]
    if ranker.target == "method" and len(table):
        # The label is the method: each location has the methods' mean scores instead of its own.
        values = np.where(np.isnan(values), np.nan, np.nanmean(values, axis=0))
    return Labels(ranker.methods, table["pngs"], columns, values, ranker.min_gap)


def label_values(metric: str, stored: Callable[[str], np.ndarray]) -> np.ndarray:
    """Scores under the label metric, turned so that lower is better; `stored` gives those of a stored metric."""
    if metric == "pi":
        return (stored("niqe") + metrics.as_lower_better("ma", stored("ma"))) / 2  # PI of the PIRM 2018 challenge
    return metrics.as_lower_better(metric, stored(metric))
