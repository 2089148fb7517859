"""The 138 features of Ma et al. 2017: 18 of local DCT, 45 of a steerable pyramid, 75 singular values.

Equal to the authors' MATLAB code to rounding. pyiqa differs from it in block padding, percentiles, the sixth
orientation's parent and more; where they differ, MATLAB is right.
"""

import math
from typing import NamedTuple

import numpy as np

from ranksr.metrics.kernels import kernel
from ranksr.metrics.ma.dct import dct_features
from ranksr.metrics.ma.gsm import LEAST_PX, gsm_features
from ranksr.metrics.scores import why_no_statistics

SVD_BLOCK_PX = 5
NUM_SCALES = 3
NUM_FEATURES = (18, 45, 75)
"""Number of DCT, GSM and SVD features."""


class MaFeatures(NamedTuple):
    """Inputs of the three forests: (18,), (45,) and (75,) float64."""

    dct: np.ndarray
    gsm: np.ndarray
    svd: np.ndarray


def ma_features(gray: np.ndarray) -> MaFeatures | str:
    """The features of uint8 HW, or the reason why they do not exist."""
    height, width = gray.shape
    if min(height, width) < LEAST_PX:
        return f"{width}x{height} px, under {LEAST_PX} px on a side"
    blocks = -(-(height >> 2) // SVD_BLOCK_PX) * -(-(width >> 2) // SVD_BLOCK_PX)
    if blocks < SVD_BLOCK_PX**2:
        return f"{width}x{height} px: its third scale has {blocks} blocks of 5x5 px, too few for 25 singular values"
    if reason := why_no_statistics(gray):
        return reason
    gsm = gsm_features(gray)
    if gsm is None:
        return "linearly dependent neighbourhoods, as in a one-dimensional pattern"
    dct, svd = spatial_features(gray)
    return MaFeatures(dct, gsm, svd)


def spatial_features(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DCT (18,) and SVD (75,) features of uint8 HW."""
    plane = gray / 255.0
    dct, svd = [], []
    for scale in range(NUM_SCALES):
        if scale:
            plane = _half(plane)
        dct.append(dct_features(plane))
        svd.append(_singular_values(plane))
    return np.concatenate(dct), np.concatenate(svd)


def _half(plane: np.ndarray) -> np.ndarray:
    """3x3 Gaussian of sigma 0.5 with zeros outside, then every second pixel, beginning with the second."""
    side = math.exp(-1 / (2 * 0.5**2))
    return _filter_half(plane, 1 / (1 + 2 * side), side / (1 + 2 * side))


@kernel
def _filter_half(plane, centre, side):
    height, width = plane.shape
    out, line, zeros = np.empty((height // 2, width // 2)), np.zeros(width + 1), np.zeros(width)
    for row in range(out.shape[0]):
        above, middle = plane[2 * row], plane[2 * row + 1]
        below, target = plane[2 * row + 2] if 2 * row + 2 < height else zeros, out[row]
        for x in range(width):
            line[x] = centre * middle[x] + side * (above[x] + below[x])
        for x in range(target.size):
            target[x] = centre * line[2 * x + 1] + side * (line[2 * x] + line[2 * x + 2])
    return out


def _singular_values(plane: np.ndarray) -> np.ndarray:
    """The 25 singular values of the matrix whose columns are the distinct 5x5 blocks (zeros fill the last ones)."""
    rows, columns = (-(-side // SVD_BLOCK_PX) for side in plane.shape)
    padded = np.zeros((rows * SVD_BLOCK_PX, columns * SVD_BLOCK_PX))
    padded[: plane.shape[0], : plane.shape[1]] = plane
    blocks = padded.reshape(rows, SVD_BLOCK_PX, columns, SVD_BLOCK_PX).transpose(1, 3, 0, 2).reshape(25, -1)
    square = np.linalg.eigvalsh(_gram(np.ascontiguousarray(blocks)))[::-1]
    if square[-1] > 1e-7 * square[0]:
        return np.sqrt(square)
    # The Gram matrix squares the condition: go the exact way where that would cost more than eight digits.
    return np.linalg.svd(np.linalg.qr(blocks.T, mode="r"), compute_uv=False)


@kernel
def _gram(rows):
    """rows @ rows.T; a BLAS product may depend on how many threads it was given."""
    size = rows.shape[0]
    out = np.empty((size, size))
    for i in range(size):
        for j in range(i + 1):
            total = 0.0
            for k in range(rows.shape[1]):
                total += rows[i, k] * rows[j, k]
            out[i, j] = out[j, i] = total
    return out
