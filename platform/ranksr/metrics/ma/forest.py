"""Regression forests as flat arrays: 11 bytes a node, checked, mapped from a file and shared by all processes.

The published models hold 2000 trees x up to 2881 nodes in five padded matrices, half a gigabyte in memory. Here only
nodes that exist are kept, a left child's index is enough (the right one follows it), and a node needs either a
threshold or a prediction.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ranksr.errors import UserError
from ranksr.metrics.kernels import kernel

MAX_NODES = 2**16 - 1
FIELDS = ("lDau", "rDau", "upper", "avnode", "mbest")
"""Fields of a published forest: left and right child (1-based, 0: none), threshold, prediction, feature (1-based)."""


class Forest(NamedTuple):
    """`value`, `child`, `feature` by node, all trees one after the other; `start` (trees + 1,) says where each begins.

    value: float64 threshold of an inner node, prediction of a leaf. child: uint16 index of the left child in its
    tree, 0 for a leaf. feature: uint8 column that an inner node compares (<= goes left).
    """

    value: np.ndarray
    child: np.ndarray
    feature: np.ndarray
    start: np.ndarray


def predict(forest: Forest, features: np.ndarray) -> np.ndarray:
    """Mean prediction of all trees, (n,), for float64 features (n, columns). The same for any batch size."""
    return _predict(np.ascontiguousarray(features, np.float64), *forest)


@kernel
def _predict(features, value, child, feature, start):
    total = np.zeros(features.shape[0])
    for tree in range(start.size - 1):  # trees outside: each is read once, and stays in the cache for all rows
        root = start[tree]
        for row in range(features.shape[0]):
            node = root
            while child[node] != 0:
                node = root + child[node] + (0 if features[row, feature[node]] <= value[node] else 1)
            total[row] += value[node]
    return total / (start.size - 1)


def check(forest: Forest, num_columns: int, what: str) -> None:
    """Raise UserError unless every walk ends in a leaf of its own tree and compares existing columns."""
    value, child, feature, start = forest
    sizes = np.diff(start)
    if start.size < 2 or start[0] != 0 or start[-1] != value.size or not ((sizes > 0) & (sizes <= MAX_NODES)).all():
        raise UserError(f"{what}: the trees do not fill the nodes")
    here = np.arange(value.size) - np.repeat(start[:-1], sizes)
    inner = child != 0
    if not ((child > here) & (child.astype(np.int64) + 1 < np.repeat(sizes, sizes)))[inner].all():
        raise UserError(f"{what}: a node's children are not behind it in its tree")
    if not (feature[inner] < num_columns).all():
        raise UserError(f"{what}: a node compares a feature beyond the {num_columns} there are")
    if not np.isfinite(value).all():
        raise UserError(f"{what}: a threshold or prediction is not finite")


def from_matlab(record: Any, num_columns: int, what: str) -> Forest:
    """The forest of one cell of the published `model.rf`. Raises UserError naming the field that is wrong."""
    names = getattr(getattr(record, "dtype", None), "names", None)
    if names is None or set(FIELDS) - set(names):
        raise UserError(f"{what} has the fields {names}, not {', '.join(FIELDS)}")
    left, right, upper, average, best = (_matrix(record[name], f"{what}.{name}") for name in FIELDS)
    shape = left.shape
    if {field.shape for field in (right, upper, average, best)} != {shape}:
        raise UserError(f"{what}: the fields have different shapes, nodes x trees {shape} and others")
    for name, field, most in (("lDau", left, shape[0]), ("rDau", right, shape[0]), ("mbest", best, num_columns)):
        if not ((field >= 0) & (field <= most) & (field == np.floor(field))).all():
            raise UserError(f"{what}.{name} holds numbers that are no index up to {most}")
    # Trees first; a tree ends with the last child that a node names.
    left, right, upper, average, best = (field.T for field in (left, right, upper, average, best))
    sizes = np.maximum(right.max(axis=1), 1).astype(np.int64)
    real = np.arange(shape[0]) < sizes[:, None]
    inner = (left > 0)[real]
    if (right[real] != np.where(inner, left[real] + 1, 0)).any():
        raise UserError(f"{what}: a right child does not follow its left sibling")
    if (left == 1).any():
        raise UserError(f"{what}: a root is another node's child")
    if sizes.max() > MAX_NODES:
        raise UserError(f"{what}: a tree has {sizes.max()} nodes, more than {MAX_NODES}")
    forest = Forest(
        np.where(inner, upper[real], average[real]).astype(np.float64),
        np.where(inner, left[real] - 1, 0).astype(np.uint16),
        np.where(inner, best[real].astype(np.int64) - 1, 0).astype(np.uint8),
        np.concatenate([[0], np.cumsum(sizes)]),
    )
    check(forest, num_columns, what)
    return forest


def _matrix(cell: Any, what: str) -> np.ndarray:
    """The numeric matrix inside MATLAB's nested cells."""
    matrix = np.asarray(cell)
    while matrix.dtype == object and matrix.size == 1:
        matrix = np.asarray(matrix.item())
    if matrix.ndim != 2 or matrix.dtype.kind not in "iuf" or not matrix.size:
        raise UserError(f"{what} is no matrix of numbers (type {matrix.dtype}, shape {matrix.shape})")
    return matrix


def from_sklearn(trees: Sequence[Any]) -> Forest:
    """The forest of fitted scikit-learn regression trees."""
    parts, sizes = [], []
    for tree in (fitted.tree_ for fitted in trees):
        order, children = [0], list[int]()
        for node in order:  # breadth first, so that siblings are neighbours; the list grows while it is read
            left = tree.children_left[node]
            children.append(len(order) if left >= 0 else 0)
            if left >= 0:
                order += [left, tree.children_right[node]]
        inner = np.array(children) != 0
        value = np.where(inner, tree.threshold[order], tree.value[order, 0, 0])
        parts.append((value, np.array(children, np.uint16), np.where(inner, tree.feature[order], 0).astype(np.uint8)))
        sizes.append(len(order))
    value, child, feature = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Forest(value, child, feature, np.concatenate([[0], np.cumsum(sizes)]))
