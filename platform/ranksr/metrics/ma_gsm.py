"""The 45 global features of Ma: statistics of divisively normalised pyramid bands and how alike bands are.

Ma et al. 2017, section 3.2 (after DIVINE, Moorthy & Bovik 2011): each coefficient is divided by the strength that a
Gaussian scale mixture gives its neighbourhood of eight neighbours, the parent and the other orientations.
"""

import functools
import math

import numpy as np

from ranksr.images import resize_bicubic
from ranksr.metrics.kernels import kernel, scratch, shape_buckets, shape_index, shape_table
from ranksr.metrics.ma_pyramid import NUM_BANDS, build_pyramid, coarse_shape

GUARD_PX = 16
LEAST_PX = 45
"""The smallest side that leaves an 11 px window after 16 px guard bands and a 3x3 neighbourhood."""
NEIGHBOURHOOD, PARENT = 15, 9
"""3x3 coefficients, the parent, five other orientations; and the parent's place."""
SINGULAR = 1e-12
"""Fraction of a neighbour's power that the others leave unexplained, below which it is rounding noise."""
SSIM_C2 = (0.03 * 255) ** 2
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
        _double(band, _double_taps(), out)
    # The sixth fine band has no parent, an oversight of the published code; the coarse ones have none.
    fine_normal, fine_moments = _normalise(fine, raised[: NUM_BANDS - 1], GUARD_PX, normal)
    _, coarse_moments = _normalise(coarse, raised[:0], GUARD_PX // 2, coarse_normal.reshape(-1))
    if fine_moments is None or coarse_moments is None:
        return None
    shapes = [_shape(moment) for moment in (*fine_moments, *coarse_moments, *(fine_moments + coarse_moments))]
    if (height, width) != (2 * rows, 2 * columns):
        for band, out in zip(coarse, raised, strict=True):
            out[:] = resize_bicubic(band, height, width)
    alike = _across_scales(high, fine, raised, rest) + _across_orientations(fine_normal, fine, raised, rest)
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


def _across_scales(high: np.ndarray, fine: np.ndarray, raised: np.ndarray, rest: np.ndarray) -> list[float]:
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


def _across_orientations(normal: np.ndarray, first: np.ndarray, second: np.ndarray, rest: np.ndarray) -> list[float]:
    """Likeness of each pair of normalised fine bands. Overwrites `first` and `second`."""
    _, rows, columns = normal.shape
    shape = (NUM_BANDS, rows - 10, columns - 10)
    means, variances = (part.reshape(-1)[: math.prod(shape)].reshape(shape) for part in (first, second))
    taps, product = _window_taps(), rest[: rows * columns].reshape(rows, columns)
    for band, mean, variance in zip(normal, means, variances, strict=True):
        _local_moments(band, taps, product, mean, variance)
    return [
        _likeness(normal[a], normal[b], means[a], variances[a], means[b], variances[b], taps, product)
        for a in range(NUM_BANDS)
        for b in range(a + 1, NUM_BANDS)
    ]


@functools.cache
def _window_taps() -> np.ndarray:
    """Half of SSIM's 11-tap Gaussian of sigma 1.5, centre first."""
    taps = np.exp(-(np.arange(6) ** 2) / (2 * 1.5**2))
    return taps / (2 * taps.sum() - taps[0])


@functools.cache
def _double_taps() -> np.ndarray:
    """MATLAB's bicubic weights at distances 1.75, 0.75, 0.25 and 1.25."""
    near, far = np.array([0.75, 0.25]), np.array([1.75, 1.25])
    inner = 1.5 * near**3 - 2.5 * near**2 + 1
    outer = -0.5 * far**3 + 2.5 * far**2 - 4 * far + 2
    return np.array([outer[0], inner[0], inner[1], outer[1]])


@kernel
def _double(source, taps, out):
    """MATLAB's imresize(source, 2), symmetric border, cut to the size of `out`."""
    height, width = source.shape
    line = np.empty(width + 4)
    for y in range(out.shape[0]):
        middle, step = y // 2, 1 if y % 2 else -1
        line[:] = 0.0
        for k in range(4):
            # Outwards from the far side: an even row leans to the row above, an odd one to the row below.
            row = middle + step * (2 - k)
            row = -1 - row if row < 0 else (2 * height - 1 - row if row >= height else row)
            origin, weight = source[row], taps[k]
            for x in range(width):
                line[x + 2] += weight * origin[x]
        line[1], line[0] = line[2], line[3]
        line[width + 2], line[width + 3] = line[width + 1], line[width]
        for x in range(out.shape[1] // 2):
            inner = taps[1] * line[x + 1] + taps[2] * line[x + 2]
            out[y, 2 * x] = taps[0] * line[x] + inner + taps[3] * line[x + 3]
            inner = taps[1] * line[x + 3] + taps[2] * line[x + 2]
            out[y, 2 * x + 1] = taps[0] * line[x + 4] + inner + taps[3] * line[x + 1]
        if out.shape[1] % 2:
            x = width - 1
            inner = taps[1] * line[x + 1] + taps[2] * line[x + 2]
            out[y, 2 * x] = taps[0] * line[x] + inner + taps[3] * line[x + 3]


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


@kernel
def _blur_row(plane, y, taps, line, out):
    """Row `y` of the valid 11x11 Gaussian mean, into `out`."""
    t0, t1, t2, t3, t4, t5 = taps[0], taps[1], taps[2], taps[3], taps[4], taps[5]
    # Two loops, because LLVM gives up on vectors when it must check more than eight pairs of rows for overlap.
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
