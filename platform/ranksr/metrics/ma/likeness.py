"""Likeness of bands: the contrast-structure term of SSIM, across scales and across orientations (27 Ma features)."""

import functools
import math

import numpy as np

from ranksr.metrics.kernels import kernel

SSIM_C2 = (0.03 * 255) ** 2


def across_scales(high: np.ndarray, fine: np.ndarray, raised: np.ndarray, rest: np.ndarray) -> list[float]:
    """Likeness of the high-pass rest with each fine and each enlarged coarse band."""
    taps, product = _window_taps(), rest[: high.size].reshape(high.shape)
    mean, variance, other_mean, other_variance = (
        rest[(k + 1) * high.size :][: (high.shape[0] - 10) * (high.shape[1] - 10)].reshape(high.shape[0] - 10, -1)
        for k in range(4)
    )
    _local_moments(high, taps, product, mean, variance)
    found = []
    for band in (*fine, *raised):
        _local_moments(band, taps, product, other_mean, other_variance)
        found.append(_likeness(high, band, mean, variance, other_mean, other_variance, taps, product))
    return found


def across_orientations(normal: np.ndarray, first: np.ndarray, second: np.ndarray, rest: np.ndarray) -> list[float]:
    """Likeness of each pair of normalised fine bands. Overwrites `first` and `second`."""
    _, rows, columns = normal.shape
    shape = (len(normal), rows - 10, columns - 10)
    means, variances = (part.reshape(-1)[: math.prod(shape)].reshape(shape) for part in (first, second))
    taps, product = _window_taps(), rest[: rows * columns].reshape(rows, columns)
    for band, mean, variance in zip(normal, means, variances, strict=True):
        _local_moments(band, taps, product, mean, variance)
    return [
        _likeness(normal[a], normal[b], means[a], variances[a], means[b], variances[b], taps, product)
        for a in range(len(normal))
        for b in range(a + 1, len(normal))
    ]


@functools.cache
def _window_taps() -> np.ndarray:
    """Half of SSIM's 11-tap Gaussian of sigma 1.5, centre first."""
    taps = np.exp(-(np.arange(6) ** 2) / (2 * 1.5**2))
    return taps / (2 * taps.sum() - taps[0])


@kernel
def _blur_row(plane, y, taps, line, out):
    """Row `y` of the valid 11x11 Gaussian mean, into `out`."""
    t0, t1, t2, t3, t4, t5 = taps[0], taps[1], taps[2], taps[3], taps[4], taps[5]
    # Two loops keep the rows that LLVM must check for overlap few; no gain was measured on Zen 5.
    for x in range(plane.shape[1]):
        near = t1 * (plane[y + 4, x] + plane[y + 6, x]) + t2 * (plane[y + 3, x] + plane[y + 7, x])
        line[x] = t0 * plane[y + 5, x] + near
    for x in range(plane.shape[1]):
        far = t4 * (plane[y + 1, x] + plane[y + 9, x]) + t5 * (plane[y, x] + plane[y + 10, x])
        line[x] += t3 * (plane[y + 2, x] + plane[y + 8, x]) + far
    for x in range(out.size):
        near = t1 * (line[x + 4] + line[x + 6]) + t2 * (line[x + 3] + line[x + 7])
        far = t4 * (line[x + 1] + line[x + 9]) + t5 * (line[x] + line[x + 10])
        out[x] = t0 * line[x + 5] + near + t3 * (line[x + 2] + line[x + 8]) + far


@kernel
def _local_moments(plane, taps, square, mean, variance):
    """Local mean and variance; `square` is working memory."""
    for y in range(plane.shape[0]):
        for x in range(plane.shape[1]):
            square[y, x] = plane[y, x] * plane[y, x]
    line, first, second = np.empty(plane.shape[1]), np.empty(mean.shape[1]), np.empty(mean.shape[1])
    for y in range(mean.shape[0]):
        _blur_row(plane, y, taps, line, first)
        _blur_row(square, y, taps, line, second)
        for x in range(mean.shape[1]):
            mean[y, x] = first[x]
            variance[y, x] = second[x] - first[x] * first[x]


@kernel
def _likeness(first, second, mean1, variance1, mean2, variance2, taps, product):
    """Mean contrast-structure term of SSIM; `product` is working memory."""
    for y in range(first.shape[0]):
        for x in range(first.shape[1]):
            product[y, x] = first[y, x] * second[y, x]
    line, blurred = np.empty(first.shape[1]), np.empty(mean1.shape[1])
    total = 0.0
    for y in range(mean1.shape[0]):
        _blur_row(product, y, taps, line, blurred)
        for x in range(blurred.size):
            covariance = blurred[x] - mean1[y, x] * mean2[y, x]
            total += (2 * covariance + SSIM_C2) / (variance1[y, x] + variance2[y, x] + SSIM_C2)
    return total / mean1.size
