"""The 18 DCT features of Ma: how local frequencies are distributed in overlapping 7x7 blocks, at three scales.

Ma et al. 2017, section 3.1, as the authors' MATLAB code has it (image in [0, 1], blocks every 3 px, zero padding).
"""

import functools
import math

import numpy as np

from ranksr.metrics.kernels import kernel, scratch, shape_buckets, shape_index, shape_table

STRIDE_PX, OVERLAP_PX, BLOCK_PX = 3, 2, 7
NUM_COEFFICIENTS = BLOCK_PX * BLOCK_PX - 1


def dct_features(plane: np.ndarray) -> np.ndarray:
    """Six features of one scale: (6,). `plane` is float64 HW in [0, 1].

    Mean over the lowest tenth and over all blocks of the shape parameter; over the highest tenth and all blocks of
    the coefficient of variation, and of its variance over three orientations.
    """
    rows, columns = (-(-side // STRIDE_PX) for side in plane.shape)
    stripe_px = columns * STRIDE_PX + 2 * OVERLAP_PX
    buffer = scratch(3 * rows * columns + BLOCK_PX * stripe_px + BLOCK_PX**2 * columns + 6 * columns)
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
def _basis() -> tuple[np.ndarray, np.ndarray]:
    """The orthonormal 7-point DCT, frequency by sample; and each coefficient's orientation 0, 1, 2, or -1 for none."""
    sample = np.arange(BLOCK_PX)
    basis = np.cos(np.pi * sample[:, None] * (2 * sample + 1) / (2 * BLOCK_PX)) * math.sqrt(2 / BLOCK_PX)
    basis[0] /= math.sqrt(2)
    orientation = np.full((BLOCK_PX, BLOCK_PX), -1)
    for row, first in enumerate((1, 2, 4, 5)):
        orientation[row, first:] = 0
        orientation[first:, row] = 2
    for row, (first, last) in enumerate(((1, 2), (2, 4), (2, 5), (3, 7), (4, 7), (4, 7)), start=1):
        orientation[row, first:last] = 1
    return basis, orientation


@kernel
def _block_statistics(plane, basis, orientation, shapes, table, buckets, buffer):
    """(3, blocks): shape, coefficient of variation, and its variance over orientations."""
    height, width = plane.shape
    rows, columns = -(-height // STRIDE_PX), -(-width // STRIDE_PX)
    stripe_px = columns * STRIDE_PX + 2 * OVERLAP_PX
    found = buffer[: 3 * rows * columns].reshape((3, rows * columns))
    buffer = buffer[3 * rows * columns :]
    stripe = buffer[: BLOCK_PX * stripe_px].reshape((BLOCK_PX, stripe_px))
    buffer = buffer[BLOCK_PX * stripe_px :]
    blocks = buffer[: BLOCK_PX * BLOCK_PX * columns].reshape((BLOCK_PX, BLOCK_PX, columns))
    sums = buffer[BLOCK_PX * BLOCK_PX * columns :].reshape((6, columns))
    for row in range(rows):
        _transform_columns(plane, row * STRIDE_PX - OVERLAP_PX, basis, stripe)
        _transform_rows(stripe, basis, blocks)
        part = found[:, row * columns : (row + 1) * columns]
        _variation(blocks, sums, part[1])
        _orientation_variance(blocks, orientation, sums, part[2])
        _shape(blocks, sums, shapes, table, buckets, part[0])
    return found


@kernel
def _transform_columns(plane, top, basis, stripe):
    """DCT along y of the seven rows from `top`, zero outside the image; `stripe` starts two columns to the left."""
    height, width = plane.shape
    stripe[:] = 0.0
    for frequency in range(BLOCK_PX):
        out = stripe[frequency, OVERLAP_PX : OVERLAP_PX + width]
        for sample in range(BLOCK_PX):
            y = top + sample
            if 0 <= y < height:
                source, weight = plane[y], basis[frequency, sample]
                for x in range(width):
                    out[x] += weight * source[x]


@kernel
def _transform_rows(stripe, basis, blocks):
    """DCT along x of every block: (frequency y, frequency x, block)."""
    for vertical in range(BLOCK_PX):
        line = stripe[vertical]
        for block in range(blocks.shape[2]):
            x = STRIDE_PX * block
            a, b, c, middle = line[x], line[x + 1], line[x + 2], line[x + 3]
            d, e, f = line[x + 4], line[x + 5], line[x + 6]
            # Even frequencies see sums of mirrored samples, odd ones their differences.
            s0, s1, s2, d0, d1, d2 = a + f, b + e, c + d, a - f, b - e, c - d
            for k in range(0, BLOCK_PX, 2):
                even = basis[k, 0] * s0 + basis[k, 1] * s1 + basis[k, 2] * s2
                blocks[vertical, k, block] = even + basis[k, 3] * middle
            for k in range(1, BLOCK_PX, 2):
                blocks[vertical, k, block] = basis[k, 0] * d0 + basis[k, 1] * d1 + basis[k, 2] * d2


@kernel
def _variation(blocks, sums, out):
    """Standard deviation over mean of |coefficient|; leaves the plain mean in sums[2]."""
    total, square, signed = sums[0], sums[1], sums[2]
    total[:] = 0.0
    square[:] = 0.0
    signed[:] = 0.0
    for k in range(1, NUM_COEFFICIENTS + 1):
        values = blocks[k // BLOCK_PX, k % BLOCK_PX]
        for block in range(values.size):
            value = values[block]
            total[block] += abs(value)
            square[block] += value * value
            signed[block] += value
    for block in range(out.size):
        mean = total[block] / NUM_COEFFICIENTS
        variance = (square[block] - total[block] * mean) / (NUM_COEFFICIENTS - 1)
        out[block] = math.sqrt(max(variance, 0.0)) / (mean + 1e-7)
        signed[block] /= NUM_COEFFICIENTS
        square[block] = (square[block] - NUM_COEFFICIENTS * signed[block] ** 2) / (NUM_COEFFICIENTS - 1)


@kernel
def _shape(blocks, sums, shapes, table, buckets, out):
    """Generalised Gaussian shape of the coefficients; wants their variance and mean in sums[1] and sums[2]."""
    deviation, variance, mean = sums[0], sums[1], sums[2]
    deviation[:] = 0.0
    for k in range(1, NUM_COEFFICIENTS + 1):
        values = blocks[k // BLOCK_PX, k % BLOCK_PX]
        for block in range(values.size):
            deviation[block] += abs(values[block] - mean[block])
    for block in range(out.size):
        ratio = variance[block] / ((deviation[block] / NUM_COEFFICIENTS) ** 2 + 1e-7)
        out[block] = shapes[shape_index(ratio, table, buckets)]


@kernel
def _orientation_variance(blocks, orientation, sums, out):
    """Variance over three orientations of std / mean of |coefficient|; leaves sums[1] and sums[2] as they are."""
    total, square = sums[0], sums[3]
    first, second = sums[4], sums[5]
    for part in range(3):
        count = 0
        total[:] = 0.0
        square[:] = 0.0
        for k in range(1, NUM_COEFFICIENTS + 1):
            if orientation[k // BLOCK_PX, k % BLOCK_PX] == part:
                count += 1
                values = blocks[k // BLOCK_PX, k % BLOCK_PX]
                for block in range(values.size):
                    value = abs(values[block])
                    total[block] += value
                    square[block] += value * value
        for block in range(out.size):
            mean = total[block] / count
            variation = math.sqrt(max(square[block] - total[block] * mean, 0.0) / (count - 1)) / (mean + 1e-8)
            if part == 0:
                first[block] = variation
            elif part == 1:
                second[block] = variation
            else:
                centre = (first[block] + second[block] + variation) / 3
                spread = (first[block] - centre) ** 2 + (second[block] - centre) ** 2
                out[block] = (spread + (variation - centre) ** 2) / 2
