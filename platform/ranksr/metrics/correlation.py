"""Rank correlation between two columns of scores."""

import numpy as np


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
    """From 1; equal values share the average. As scipy.stats.rankdata, whose import every worker would wait for."""
    _, place, counts = np.unique(vector, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
