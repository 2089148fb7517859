"""The 45 global features of Ma: statistics of divisively normalised pyramid bands and how alike bands are.

Ma et al. 2017, section 3.2 (after DIVINE, Moorthy & Bovik 2011): each coefficient is divided by the strength that a
Gaussian scale mixture gives its neighbourhood of eight neighbours, the parent and the other orientations.
"""

import math

import numpy as np

from ranksr.metrics.kernels import kernel, scratch, shape_buckets, shape_index, shape_table
from ranksr.metrics.ma.likeness import across_orientations, across_scales
from ranksr.metrics.ma.pyramid import NUM_BANDS, build_pyramid, coarse_shape, double, double_taps, enlarge

GUARD_PX = 16
LEAST_PX = 45
"""The smallest side that leaves an 11 px window after 16 px guard bands and a 3x3 neighbourhood."""
NEIGHBOURHOOD, PARENT = 15, 9
"""3x3 coefficients, the parent, five other orientations; and the parent's place."""
SINGULAR = 1e-12
"""Fraction of a neighbour's power that the others leave unexplained, below which it is rounding noise."""
STRIP_ROWS = 8
TILE_PX = 64


def gsm_features(gray: np.ndarray) -> np.ndarray | None:
    """(45,) features of uint8 HW, at least 45 px a side; None where they are rounding noise.

    12 shapes of bands, 6 shapes of both scales' bands together, 12 likenesses of a band with the high-pass rest,
    15 likenesses of two fine bands.
    """
    height, width = gray.shape
    rows, columns = coarse_shape(height, width)
    planes, transforms = height * width, 4 * height * (width // 2 + 1)
    buffer = scratch(19 * planes + 12 * rows * columns + max(5 * planes, transforms))
    bands = buffer[: 19 * planes].reshape(19, height, width)
    high, fine, raised, normal = bands[0], bands[1:7], bands[7:13], bands[13:].reshape(-1)
    coarse, coarse_normal = buffer[19 * planes :][: 12 * rows * columns].reshape(2, NUM_BANDS, rows, columns)
    rest = buffer[19 * planes + 12 * rows * columns :]
    build_pyramid(gray, high, fine, coarse, rest[:transforms].view(np.complex128))
    for band, out in zip(coarse, raised, strict=True):
        double(band, double_taps(), out)
    # The sixth fine band has no parent, an oversight of the published code; the coarse ones have none.
    fine_normal, fine_moments = _normalise(fine, raised[: NUM_BANDS - 1], GUARD_PX, normal)
    _, coarse_moments = _normalise(coarse, raised[:0], GUARD_PX // 2, coarse_normal.reshape(-1))
    if fine_moments is None or coarse_moments is None:
        return None
    shapes = [_shape(moment) for moment in (*fine_moments, *coarse_moments, *(fine_moments + coarse_moments))]
    if (height, width) != (2 * rows, 2 * columns):
        for band, out in zip(coarse, raised, strict=True):
            out[:] = enlarge(enlarge(band, height).T, width).T
    alike = across_scales(high, fine, raised, rest) + across_orientations(fine_normal, fine, raised, rest)
    return np.array(shapes + alike)


def _shape(moments: np.ndarray) -> float:
    """Generalised Gaussian shape from count, sum of squares and sum of absolute values of a centred sample."""
    count, squares, absolutes = moments
    shapes, table = shape_table()
    ratio = squares / (count - 1) / ((absolutes / count) ** 2 + 1e-7)
    return float(shapes[shape_index(ratio, table, shape_buckets())])


def _normalise(
    bands: np.ndarray, parents: np.ndarray, guard_px: int, buffer: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Bands divided by their neighbourhood's strength, centred, without a border; and (6, 3) moments of each.

    The moments are None where the neighbourhood is linearly dependent, as in one-dimensional patterns.
    """
    rows, columns = (side - 2 - 2 * guard_px for side in bands.shape[1:])
    normal = buffer[: NUM_BANDS * rows * columns].reshape(NUM_BANDS, rows, columns)
    means, covariance = _moments_of_neighbourhoods(bands, parents)
    orphans = np.arange(len(parents), NUM_BANDS)
    covariance[orphans, PARENT, PARENT] = 1
    try:
        lower = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return normal, None
    power = np.diagonal(covariance, axis1=1, axis2=2)
    if (np.diagonal(lower, axis1=1, axis2=2) ** 2 < SINGULAR * power).any():
        return normal, None
    whitening = np.linalg.inv(lower)
    whitening[orphans, PARENT] = 0
    moments = np.empty((NUM_BANDS, 3))
    for band in range(NUM_BANDS):
        size = PARENT + (band < len(parents))
        _divide(bands, parents, band, whitening[band] / math.sqrt(size), means[band], guard_px, normal[band])
        _centre(normal[band], moments[band])
    return normal, moments if np.isfinite(moments).all() else None


@kernel
def _moments_of_neighbourhoods(bands, parents):
    """Mean (6,) and second moments (6, 15, 15) over all whole neighbourhoods of each band."""
    _, height, width = bands.shape
    means, moments = np.zeros(NUM_BANDS), np.zeros((NUM_BANDS, NEIGHBOURHOOD, NEIGHBOURHOOD))
    shared = np.zeros((NUM_BANDS, NUM_BANDS))
    planes, elders = bands.reshape((NUM_BANDS, height * width)), parents.reshape((parents.shape[0], height * width))
    ones = np.ones((STRIP_ROWS + 1) * width)
    for top in range(1, height - 1, STRIP_ROWS):  # strips stay in the second-level cache
        rows = min(STRIP_ROWS, height - 1 - top)
        for band in range(NUM_BANDS):
            found, plane = moments[band], planes[band]
            means[band] += _dot(plane[top * width :], ones, rows, width)
            for a in range(3):
                for b in range(a, 3):
                    first, second = plane[(top + a - 1) * width :], plane[(top + b - 1) * width :]
                    _add_nine(first, second, rows, width, found[3 * a : 3 * a + 3, 3 * b : 3 * b + 3])
            for other in range(NUM_BANDS):
                place, there = PARENT + 1 + other - (other > band), planes[other, top * width :]
                if other != band:
                    _add_shifted(plane[(top - 1) * width :], there, rows, width, found[:, place])
                if other >= band:
                    shared[band, other] += _dot(plane[top * width :], there, rows, width)
                if other != band and band < parents.shape[0]:
                    found[PARENT, place] += _dot(elders[band, top * width :], there, rows, width)
            if band < parents.shape[0]:
                there = elders[band, top * width :]
                _add_shifted(plane[(top - 1) * width :], there, rows, width, found[:, PARENT])
                found[PARENT, PARENT] += _dot(there, there, rows, width)
    _fill(moments, shared)
    count = (width - 2) * (height - 2)
    return means / count, moments / count


@kernel
def _fill(moments, shared):
    """The moments of two other orientations, which all bands share, and the lower triangles."""
    for band in range(NUM_BANDS):
        found = moments[band]
        for first in range(NUM_BANDS):
            for second in range(first, NUM_BANDS):
                if first != band and second != band:
                    a, b = PARENT + 1 + first - (first > band), PARENT + 1 + second - (second > band)
                    found[a, b] = shared[first, second]
        for a in range(NEIGHBOURHOOD):
            for b in range(a):
                found[a, b] = found[b, a]


# The next three sum over rows as if they were one long one, which keeps the loop in full vectors, and then take away
# what was multiplied across the two border columns.


@kernel
def _dot(first, second, rows, width):
    """Sum of products without the first and last column."""
    total = 0.0
    for p in range(1, rows * width - 1):
        total += first[p] * second[p]
    for p in range(width, rows * width, width):
        total -= first[p - 1] * second[p - 1] + first[p] * second[p]
    return total


@kernel
def _add_shifted(plane, other, rows, width, found):
    """Add the products of a plane's nine neighbours, from the row above on, with another plane."""
    for a in range(3):
        left = middle = right = 0.0
        line = plane[a * width :]
        for p in range(rows * width - 2):
            value = other[p + 1]
            left += line[p] * value
            middle += line[p + 1] * value
            right += line[p + 2] * value
        for end in range(width, rows * width, width):
            for p in range(end - 2, end):
                value = other[p + 1]
                left -= line[p] * value
                middle -= line[p + 1] * value
                right -= line[p + 2] * value
        found[3 * a] += left
        found[3 * a + 1] += middle
        found[3 * a + 2] += right


@kernel
def _add_nine(above, below, rows, width, found):
    """Add the products of three neighbours in one row with three in another (or the same)."""
    aa = ab = ac = ba = bb = bc = ca = cb = cc = 0.0
    for p in range(rows * width - 2):
        a, b, c, d, e, f = above[p], above[p + 1], above[p + 2], below[p], below[p + 1], below[p + 2]
        aa += a * d
        ab += a * e
        ac += a * f
        ba += b * d
        bb += b * e
        bc += b * f
        ca += c * d
        cb += c * e
        cc += c * f
    sums = (aa, ab, ac, ba, bb, bc, ca, cb, cc)
    for k in range(9):
        i, j = k // 3, k % 3
        across = 0.0
        for end in range(width, rows * width, width):
            across += above[end - 2 + i] * below[end - 2 + j] + above[end - 1 + i] * below[end - 1 + j]
        found[i, j] += sums[k] - across


@kernel
def _divide(bands, parents, band, whitening, mean, guard, out):
    """(coefficient - mean) / length of its whitened neighbourhood, inside the guard band."""
    columns, left = out.shape[1], guard + 1
    near, white = np.zeros(NEIGHBOURHOOD * TILE_PX), np.empty(3 * TILE_PX)
    power = np.empty(TILE_PX)
    for row in range(out.shape[0]):
        y = row + left
        for start in range(0, columns, TILE_PX):
            x, count = start + left, min(TILE_PX, columns - start)
            for k in range(9):
                _copy(bands[band, y - 1 + k // 3], x - 1 + k % 3, count, near, k)
            if band < parents.shape[0]:
                _copy(parents[band, y], x, count, near, PARENT)
            for k in range(NUM_BANDS - 1):
                _copy(bands[k + (k >= band), y], x, count, near, PARENT + 1 + k)
            power[:] = 0.0
            for first in range(0, NEIGHBOURHOOD, 3):
                white[:] = 0.0
                for second in range(0, first + 3, 5):
                    _multiply_tile(whitening, first, second, near, white)
                for k in range(TILE_PX):
                    power[k] += white[k] ** 2 + white[TILE_PX + k] ** 2 + white[2 * TILE_PX + k] ** 2
            for k in range(count):
                out[row, start + k] = (near[4 * TILE_PX + k] - mean) / math.sqrt(power[k])


@kernel
def _copy(row, start, count, near, place):
    # Not a slice assignment, whose checks cost more than copying 64 numbers.
    source, target = row[start : start + count], near[place * TILE_PX : place * TILE_PX + count]
    for k in range(target.size):
        target[k] = source[k]


@kernel
def _multiply_tile(weights, i, j, near, white):
    """white += weights[i : i + 3, j : j + 5] @ near[j : j + 5], with the weights in registers.

    The pitch between rows is a constant, or LLVM would not see that the rows do not overlap.
    """
    a0, a1, a2, a3, a4 = weights[i, j], weights[i, j + 1], weights[i, j + 2], weights[i, j + 3], weights[i, j + 4]
    i += 1
    b0, b1, b2, b3, b4 = weights[i, j], weights[i, j + 1], weights[i, j + 2], weights[i, j + 3], weights[i, j + 4]
    i += 1
    c0, c1, c2, c3, c4 = weights[i, j], weights[i, j + 1], weights[i, j + 2], weights[i, j + 3], weights[i, j + 4]
    near = near[j * TILE_PX : (j + 5) * TILE_PX]
    for x in range(TILE_PX):
        p, q, r = near[x], near[TILE_PX + x], near[2 * TILE_PX + x]
        s, t = near[3 * TILE_PX + x], near[4 * TILE_PX + x]
        white[x] += a0 * p + a1 * q + a2 * r + a3 * s + a4 * t
        white[TILE_PX + x] += b0 * p + b1 * q + b2 * r + b3 * s + b4 * t
        white[2 * TILE_PX + x] += c0 * p + c1 * q + c2 * r + c3 * s + c4 * t


@kernel
def _centre(plane, moments):
    """Subtract the mean in place; write count, sum of squares, sum of absolute values."""
    mean = 0.0
    for y in range(plane.shape[0]):
        for x in range(plane.shape[1]):
            mean += plane[y, x]
    mean /= plane.size
    squares = absolutes = 0.0
    for y in range(plane.shape[0]):
        for x in range(plane.shape[1]):
            value = plane[y, x] - mean
            plane[y, x] = value
            squares += value * value
            absolutes += abs(value)
    moments[0], moments[1], moments[2] = plane.size, squares, absolutes
