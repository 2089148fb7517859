"""A score, the reasons for having none, means and rank correlation of scores."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

FITTED = "calibrated here, not comparable with published values"
"""The remark in every table that shows scores of a fitted model."""


class Score(NamedTuple):
    """`value` is NaN exactly when `reason` says why the image cannot be scored."""

    value: float
    reason: str | None = None


def unscorable(reason: str) -> Score:
    return Score(math.nan, reason)


def mean_score(values: Iterable[float | None]) -> tuple[float, int]:
    """Mean of the values that are scores, and their number; (NaN, 0) where there is none.

    NaN and None are no score. An infinite PSNR, of an image that equals its reference, is one: the mean is infinite.
    """
    known = [value for value in values if value is not None and not math.isnan(value)]
    return (math.fsum(known) / len(known) if known else math.nan), len(known)


def why_unscorable(image: np.ndarray) -> str | None:
    """Why no metric can score this array, or None. Wants uint8 HWC RGB or HW."""
    if not isinstance(image, np.ndarray):
        return f"not an array but {type(image).__name__}"
    if image.dtype != np.uint8:
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            return "pixels that are NaN or infinite"
        return f"pixels are {image.dtype}, not uint8"
    if image.ndim != 2 and (image.ndim != 3 or image.shape[2] != 3):
        return f"shape {image.shape} is neither HW nor HWC with 3 channels"
    if not image.size:
        return "no pixels"
    return None


def why_no_statistics(gray: np.ndarray) -> str | None:
    """Why natural-scene statistics of uint8 HW do not exist, or None: they are rounding noise on such patterns."""
    if (gray == gray[0, 0]).all():
        return "constant image"
    shifts = ((gray[1:], gray[:-1]), (gray[:, 1:], gray[:, :-1]))
    diagonals = ((gray[1:, 1:], gray[:-1, :-1]), (gray[1:, :-1], gray[:-1, 1:]))
    # The first column is looked at first: it settles nearly every photograph.
    if any((a[:, :1] == b[:, :1]).all() and (a == b).all() for a, b in (*shifts, *diagonals)):
        return "one-dimensional pattern"
    return None


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank-order correlation (SROCC) of two equally long vectors, ties by average ranks.

    NaN when a vector is constant, shorter than 2 or holds NaN.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"spearman needs two vectors of one length, got shapes {first.shape} and {second.shape}")
    if first.size < 2 or np.isnan(first).any() or np.isnan(second).any():
        return float("nan")
    ranks = [_ranks(vector) - (vector.size + 1) / 2 for vector in (first, second)]
    scale = np.sqrt((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1]))
    return float(np.clip(ranks[0] @ ranks[1] / scale, -1, 1)) if scale else float("nan")


def _ranks(vector: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the average. Equal to scipy.stats.rankdata, whose import is slow."""
    _, place, counts = np.unique(vector, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
