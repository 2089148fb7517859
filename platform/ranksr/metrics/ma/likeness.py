"""Likeness of bands: the contrast-structure term of SSIM, across scales and across orientations (27 Ma features).

Bands are taken a few rows at a time, of which all that is computed stays in the second-level cache.
"""

import functools

import numpy as np

from ranksr.metrics.kernels import LINE_FLOATS, kernel, strip_width

SSIM_C2 = (0.03 * 255) ** 2
STRIP_ROWS, STRIP_COLUMNS = 16, 288
"""Most rows and columns of windows that are computed at once."""
WINDOW = 11
PITCH = STRIP_COLUMNS + 3 * LINE_FLOATS
"""Room for a row of a strip with its border. A constant, or LLVM would not see which rows do not overlap."""
INPUT_FLOATS, OUTPUT_FLOATS = (STRIP_ROWS + WINDOW + 1) * PITCH, STRIP_ROWS * PITCH
MOST_BANDS = 6
WORK_FLOATS = 6 * PITCH + (MOST_BANDS + 1) * INPUT_FLOATS + 2 * MOST_BANDS * OUTPUT_FLOATS
"""Size of the working memory."""


def across_scales(bands: np.ndarray, work: np.ndarray) -> np.ndarray:
    """(n - 1,) likeness of the first of (n, H, W) bands, the high-pass rest, with each of the others."""
    return _across_scales(bands, _window_taps(), work)


def across_orientations(bands: np.ndarray, work: np.ndarray) -> np.ndarray:
    """(n (n - 1) / 2,) likeness of each pair of at most six bands (n, H, W)."""
    return _across_orientations(bands, _window_taps(), work)[np.triu_indices(len(bands), 1)]


@functools.cache
def _window_taps() -> np.ndarray:
    """Half of SSIM's 11-tap Gaussian of sigma 1.5, centre first."""
    taps = np.exp(-(np.arange(6) ** 2) / (2 * 1.5**2))
    return taps / (2 * taps.sum() - taps[0])


@kernel
def _across_scales(bands, taps, work):
    count, height, width = bands.shape[0], bands.shape[1] - WINDOW + 1, bands.shape[2] - WINDOW + 1
    lines, inputs = work[: 6 * PITCH], work[6 * PITCH : 6 * PITCH + 3 * INPUT_FLOATS].reshape((3, INPUT_FLOATS))
    outputs = work[WORK_FLOATS - 4 * OUTPUT_FLOATS : WORK_FLOATS].reshape((2, 2, OUTPUT_FLOATS))
    high, other, product = inputs[0], inputs[1], inputs[2]
    total = np.zeros(count - 1)
    step = strip_width(width, STRIP_COLUMNS)
    for top in range(0, height, STRIP_ROWS):
        rows = min(STRIP_ROWS, height - top)
        for left in range(0, width, step):
            columns = min(step, width - left)
            _read(bands[0], top, left, rows, columns, high, product)
            _local_moments(high, product, rows, columns, taps, lines, outputs[0])
            for k in range(1, count):
                _read(bands[k], top, left, rows, columns, other, product)
                _local_moments(other, product, rows, columns, taps, lines, outputs[1])
                _multiply(high, other, rows, columns, product)
                total[k - 1] += _likeness(product, rows, columns, outputs[0], outputs[1], taps, lines)
    return total / (height * width)


@kernel
def _across_orientations(bands, taps, work):
    count, height, width = bands.shape[0], bands.shape[1] - WINDOW + 1, bands.shape[2] - WINDOW + 1
    lines, rest = work[: 6 * PITCH], work[6 * PITCH :]
    inputs = rest[: count * INPUT_FLOATS].reshape((count, INPUT_FLOATS))
    product = rest[count * INPUT_FLOATS : (count + 1) * INPUT_FLOATS]
    outputs = work[WORK_FLOATS - 2 * count * OUTPUT_FLOATS : WORK_FLOATS].reshape((count, 2, OUTPUT_FLOATS))
    total = np.zeros((count, count))
    step = strip_width(width, STRIP_COLUMNS)
    for top in range(0, height, STRIP_ROWS):
        rows = min(STRIP_ROWS, height - top)
        for left in range(0, width, step):
            columns = min(step, width - left)
            for k in range(count):
                _read(bands[k], top, left, rows, columns, inputs[k], product)
                _local_moments(inputs[k], product, rows, columns, taps, lines, outputs[k])
            for a in range(count):
                for b in range(a + 1, count):
                    _multiply(inputs[a], inputs[b], rows, columns, product)
                    total[a, b] += _likeness(product, rows, columns, outputs[a], outputs[b], taps, lines)
    return total / (height * width)


@kernel
def _read(plane, top, left, rows, columns, out, square):
    """Copy a strip with its border, and square it."""
    for y in range(rows + WINDOW - 1):
        source, a, b = plane[top + y, left : left + columns + WINDOW - 1], out[y * PITCH :], square[y * PITCH :]
        for x in range(source.size):
            value = source[x]
            a[x] = value
            b[x] = value * value


@kernel
def _multiply(first, second, rows, columns, out):
    for y in range(rows + WINDOW - 1):
        a, b, product = first[y * PITCH :], second[y * PITCH :], out[y * PITCH :]
        for x in range(columns + WINDOW - 1):
            product[x] = a[x] * b[x]


@kernel
def _blur_two(near, columns, taps, line, out):
    """Two rows of the valid 11x11 Gaussian mean of the twelve rows of `near`; a few columns more than asked for."""
    t0, t1, t2, t3, t4, t5 = taps[0], taps[1], taps[2], taps[3], taps[4], taps[5]
    columns = -(-columns // LINE_FLOATS) * LINE_FLOATS
    for x in range(columns + 2 * LINE_FLOATS):
        a, b, c, d = near[x], near[x + PITCH], near[x + 2 * PITCH], near[x + 3 * PITCH]
        e, f, g, h = near[x + 4 * PITCH], near[x + 5 * PITCH], near[x + 6 * PITCH], near[x + 7 * PITCH]
        i, j, k, m = near[x + 8 * PITCH], near[x + 9 * PITCH], near[x + 10 * PITCH], near[x + 11 * PITCH]
        far = t3 * (c + i) + t4 * (b + j) + t5 * (a + k)
        line[x] = t0 * f + t1 * (e + g) + t2 * (d + h) + far
        far = t3 * (d + j) + t4 * (c + k) + t5 * (b + m)
        line[x + PITCH] = t0 * g + t1 * (f + h) + t2 * (e + i) + far
    for row in range(2):
        source, target = line[row * PITCH :], out[row * PITCH :]
        for x in range(columns):
            close = t1 * (source[x + 4] + source[x + 6]) + t2 * (source[x + 3] + source[x + 7])
            far = t4 * (source[x + 1] + source[x + 9]) + t5 * (source[x] + source[x + 10])
            target[x] = t0 * source[x + 5] + close + t3 * (source[x + 2] + source[x + 8]) + far


@kernel
def _local_moments(plane, square, rows, columns, taps, lines, out):
    """Local mean and variance of a strip, (2, OUTPUT_FLOATS); of an odd number of rows, room for one more."""
    line, first, second = lines[: 2 * PITCH], lines[2 * PITCH : 4 * PITCH], lines[4 * PITCH :]
    for y in range(0, rows, 2):
        _blur_two(plane[y * PITCH :], columns, taps, line, first)
        _blur_two(square[y * PITCH :], columns, taps, line, second)
        for row in range(2):
            one, two = first[row * PITCH :], second[row * PITCH :]
            mean, variance = out[0, (y + row) * PITCH :], out[1, (y + row) * PITCH :]
            for x in range(columns):
                mean[x] = one[x]
                variance[x] = two[x] - one[x] * one[x]


@kernel
def _likeness(product, rows, columns, first, second, taps, lines):
    """Sum over a strip of the contrast-structure term of SSIM."""
    line, blurred = lines[: 2 * PITCH], lines[2 * PITCH : 4 * PITCH]
    total = 0.0
    for y in range(0, rows, 2):
        _blur_two(product[y * PITCH :], columns, taps, line, blurred)
        mean1, mean2 = first[0, y * PITCH :], second[0, y * PITCH :]
        variance1, variance2 = first[1, y * PITCH :], second[1, y * PITCH :]
        if y + 1 < rows:
            for x in range(columns):
                above = 2 * (blurred[x] - mean1[x] * mean2[x]) + SSIM_C2
                below = variance1[x] + variance2[x] + SSIM_C2
                p = x + PITCH
                next_above = 2 * (blurred[p] - mean1[p] * mean2[p]) + SSIM_C2
                next_below = variance1[p] + variance2[p] + SSIM_C2
                # One division for two rows: they take longer than all else here.
                total += (above * next_below + next_above * below) / (below * next_below)
        else:
            for x in range(columns):
                above = 2 * (blurred[x] - mean1[x] * mean2[x]) + SSIM_C2
                total += above / (variance1[x] + variance2[x] + SSIM_C2)
    return total
