"""The 18 DCT features of Ma: how local frequencies are distributed in overlapping 7x7 blocks, at three scales.

Ma et al. 2017, section 3.1, as the authors' MATLAB code has it (image in [0, 1], blocks every 3 px, zero padding).
"""

import functools
import math

import numpy as np

from ranksr.metrics.kernels import kernel, scratch, shape_buckets, shape_index, shape_table, strip_width

STRIDE_PX, OVERLAP_PX, BLOCK_PX = 3, 2, 7
NUM_COEFFICIENTS = BLOCK_PX * BLOCK_PX - 1
NUM_ORIENTED = NUM_COEFFICIENTS // 3
TILE, PHASE = 64, 72
"""Most blocks of a row that are computed at once; and room for each third column of theirs, of which a row has three
such phases. Constants, or LLVM would not see which rows do not overlap."""
PITCH = STRIDE_PX * PHASE


def dct_features(plane: np.ndarray) -> np.ndarray:
    """Six features of one scale: (6,). `plane` is float64 HW in [0, 1].

    Mean over the lowest tenth and over all blocks of the shape parameter; over the highest tenth and all blocks of
    the coefficient of variation, and of its variance over three orientations.
    """
    rows, columns = (-(-side // STRIDE_PX) for side in plane.shape)
    strip_rows = STRIDE_PX * rows + BLOCK_PX - STRIDE_PX
    buffer = scratch((strip_rows + BLOCK_PX) * PITCH + (BLOCK_PX**2 + 8) * TILE + 3 * rows * columns)
    found = _block_statistics(plane, *_basis(), *shape_table(), shape_buckets(), buffer)
    count = found.shape[1]
    lowest, highest = math.ceil(count * 0.1), max(int(count * 0.9) - 1, 0)  # MATLAB's fix(0.9 n) counts from 1
    shape, variation, orientation = found
    return np.array(
        [
            np.partition(shape, lowest - 1)[:lowest].mean(),
            shape.mean(),
            np.partition(variation, highest)[highest:].mean(),
            variation.mean(),
            np.partition(orientation, highest)[highest:].mean(),
            orientation.mean(),
        ]
    )


@functools.cache
def _basis() -> tuple[tuple[float, ...], np.ndarray]:
    """The orthonormal 7-point DCT; and (48,) numbers of coefficients, the 16 of each orientation together.

    Of the DCT the first four samples of each frequency: the others mirror them. It is a tuple, as numbers in an array
    would be loaded anew for each block, since they might lie in what is written.
    """
    sample = np.arange(BLOCK_PX)
    basis = np.cos(np.pi * sample[:, None] * (2 * sample + 1) / (2 * BLOCK_PX)) * math.sqrt(2 / BLOCK_PX)
    basis[0] /= math.sqrt(2)
    orientation = np.full((BLOCK_PX, BLOCK_PX), -1)
    for row, first in enumerate((1, 2, 4, 5)):
        orientation[row, first:] = 0
        orientation[first:, row] = 2
    for row, (first, last) in enumerate(((1, 2), (2, 4), (2, 5), (3, 7), (4, 7), (4, 7)), start=1):
        orientation[row, first:last] = 1
    return tuple(basis[:, :4].ravel().tolist()), np.concatenate(
        [np.flatnonzero(orientation == part) for part in range(3)]
    )


@kernel
def _block_statistics(plane, weights, members, shapes, table, buckets, buffer):
    """(3, blocks): shape, coefficient of variation, and its variance over orientations."""
    height, width = plane.shape
    rows, columns = -(-height // STRIDE_PX), -(-width // STRIDE_PX)
    strip_floats = (STRIDE_PX * rows + BLOCK_PX - STRIDE_PX) * PITCH
    strip, buffer = buffer[:strip_floats], buffer[strip_floats:]
    stripe, buffer = buffer[: BLOCK_PX * PITCH], buffer[BLOCK_PX * PITCH :]
    blocks, buffer = buffer[: BLOCK_PX**2 * TILE], buffer[BLOCK_PX**2 * TILE :]
    sums, found = buffer[: 8 * TILE], buffer[8 * TILE :].reshape((3, rows * columns))
    step = strip_width(columns, TILE)
    for left in range(0, columns, step):
        _read(plane, STRIDE_PX * left - OVERLAP_PX, step + 2, strip)
        for row in range(rows):
            _transform_columns(strip[STRIDE_PX * row * PITCH :], weights, stripe)
            for vertical in range(BLOCK_PX):
                _transform_rows(stripe[vertical * PITCH :], weights, blocks[BLOCK_PX * vertical * TILE :], step)
            _sum_up(blocks, members, sums, step)
            shape, variation, orientation = sums[:TILE], sums[TILE : 2 * TILE], sums[2 * TILE : 3 * TILE]
            first, count = row * columns + left, min(step, columns - left)
            for block in range(count):
                found[1, first + block] = variation[block]
                found[2, first + block] = orientation[block]
            for block in range(count):
                found[0, first + block] = shapes[shape_index(shape[block], table, buckets)]
    return found


@kernel
def _read(plane, left, count, strip):
    """Columns `left` + 3 k + phase of a plane, zero outside it, `count` of each phase; two rows of zeros come first."""
    height, width = plane.shape
    for y in range(strip.size // PITCH):
        out = strip[y * PITCH : (y + 1) * PITCH]
        if not OVERLAP_PX <= y < height + OVERLAP_PX:
            out[:] = 0.0
            continue
        for phase in range(STRIDE_PX):
            start, line = left + phase, out[phase * PHASE : (phase + 1) * PHASE]
            first, last = int(start < 0), max(min(count, -(-(width - start) // STRIDE_PX)), 0)
            line[:first] = 0.0
            source, target = plane[y - OVERLAP_PX, start + STRIDE_PX * first :], line[first:]
            for k in range(last - first):
                target[k] = source[STRIDE_PX * k]
            line[last:] = 0.0


@kernel
def _seven(w, a, b, c, d, e, f, g):
    """DCT of seven samples. Even frequencies see sums of mirrored samples, odd ones their differences."""
    even, even1, even2, odd, odd1, odd2 = a + g, b + f, c + e, a - g, b - f, c - e
    return (
        w[0] * (even + even1 + even2 + d),
        w[4] * odd + w[5] * odd1 + w[6] * odd2,
        w[8] * even + w[9] * even1 + w[10] * even2 + w[11] * d,
        w[12] * odd + w[13] * odd1 + w[14] * odd2,
        w[16] * even + w[17] * even1 + w[18] * even2 + w[19] * d,
        w[20] * odd + w[21] * odd1 + w[22] * odd2,
        w[24] * even + w[25] * even1 + w[26] * even2 + w[27] * d,
    )


@kernel
def _transform_columns(near, w, out):
    """DCT along y of seven rows of a strip."""
    for x in range(PITCH):
        a, b, c, d = near[x], near[x + PITCH], near[x + 2 * PITCH], near[x + 3 * PITCH]
        e, f, g = near[x + 4 * PITCH], near[x + 5 * PITCH], near[x + 6 * PITCH]
        a, b, c, d, e, f, g = _seven(w, a, b, c, d, e, f, g)
        out[x], out[x + PITCH], out[x + 2 * PITCH], out[x + 3 * PITCH] = a, b, c, d
        out[x + 4 * PITCH], out[x + 5 * PITCH], out[x + 6 * PITCH] = e, f, g


@kernel
def _transform_rows(near, w, out, count):
    """DCT along x of one row of every block: (frequency x, block)."""
    for x in range(count):
        a, b, c, d = near[x], near[x + PHASE], near[x + 2 * PHASE], near[x + 1]
        e, f, g = near[x + PHASE + 1], near[x + 2 * PHASE + 1], near[x + 2]
        a, b, c, d, e, f, g = _seven(w, a, b, c, d, e, f, g)
        out[x], out[x + TILE], out[x + 2 * TILE], out[x + 3 * TILE] = a, b, c, d
        out[x + 4 * TILE], out[x + 5 * TILE], out[x + 6 * TILE] = e, f, g


@kernel
def _sum_up(blocks, members, sums, count):
    """Of each block: variance over squared mean deviation, coefficient of variation, its variance over orientations.

    They are the first three rows of `sums` (8, TILE); the others are working memory.
    """
    sums[:] = 0.0
    signed, deviation = sums[:TILE], sums[7 * TILE :]
    for k in range(0, NUM_COEFFICIENTS, 4):  # sums that lie in memory are fetched once for four coefficients
        part = k // NUM_ORIENTED
        total, square = sums[(1 + part) * TILE :], sums[(4 + part) * TILE :]
        a, b = blocks[members[k] * TILE :], blocks[members[k + 1] * TILE :]
        c, d = blocks[members[k + 2] * TILE :], blocks[members[k + 3] * TILE :]
        for x in range(count):
            total[x] += abs(a[x]) + abs(b[x]) + (abs(c[x]) + abs(d[x]))
        for x in range(count):
            square[x] += a[x] * a[x] + b[x] * b[x] + (c[x] * c[x] + d[x] * d[x])
        for x in range(count):
            signed[x] += a[x] + b[x] + (c[x] + d[x])
    for x in range(count):
        signed[x] /= NUM_COEFFICIENTS
    for k in range(1, NUM_COEFFICIENTS + 1, 4):
        a, b, c, d = blocks[k * TILE :], blocks[(k + 1) * TILE :], blocks[(k + 2) * TILE :], blocks[(k + 3) * TILE :]
        for x in range(count):
            mean = signed[x]
            deviation[x] += abs(a[x] - mean) + abs(b[x] - mean) + (abs(c[x] - mean) + abs(d[x] - mean))
    for x in range(count):
        total0, total1, total2 = sums[x + TILE], sums[x + 2 * TILE], sums[x + 3 * TILE]
        square0, square1, square2 = sums[x + 4 * TILE], sums[x + 5 * TILE], sums[x + 6 * TILE]
        square = square0 + square1 + square2
        variance = (square - NUM_COEFFICIENTS * sums[x] ** 2) / (NUM_COEFFICIENTS - 1)
        sums[x] = variance / ((sums[x + 7 * TILE] / NUM_COEFFICIENTS) ** 2 + 1e-7)
        sums[x + TILE] = _variation(total0 + total1 + total2, square, NUM_COEFFICIENTS, 1e-7)
        first = _variation(total0, square0, NUM_ORIENTED, 1e-8)
        second = _variation(total1, square1, NUM_ORIENTED, 1e-8)
        third = _variation(total2, square2, NUM_ORIENTED, 1e-8)
        centre = (first + second + third) / 3
        spread = (first - centre) ** 2 + (second - centre) ** 2 + (third - centre) ** 2
        sums[x + 2 * TILE] = spread / 2


@kernel
def _variation(total, square, count, least):
    """Standard deviation over mean."""
    mean = total / count
    return math.sqrt(max(square - total * mean, 0.0) / (count - 1)) / (mean + least)
